"""Approach 2 finds vertices, refuses by name, and is as biased as theory says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import RefusedError, isoflop_profiles
from analysis.laws.chinchilla import CHINCHILLA
from analysis.notices import CurvatureNotPositive, TooFewPoints, VertexOutside
from analysis.profiles import budgets, noise_free_bias
from analysis.synthetic import BESIROGLU, HOFFMANN, isoflop_grid
from analysis.table import Table

SKEWED = {**HOFFMANN, "alpha": 0.465, "beta": 0.155}
FIVE = np.geomspace(1e17, 1e21, 5)


@pytest.mark.parametrize(
    ("planted", "spread", "percent"),
    [
        (HOFFMANN, 2, -0.3269),
        (HOFFMANN, 4, -1.3011),
        (HOFFMANN, 8, -2.9029),
        (HOFFMANN, 16, -5.1002),
        (SKEWED, 2, -1.6747),
        (SKEWED, 4, -6.4978),
        (SKEWED, 8, -13.9104),
        (SKEWED, 16, -23.1163),
    ],
)
def test_noise_free_bias_is_the_published_one(
    planted: dict[str, float], spread: float, percent: float
) -> None:
    table = isoflop_grid(planted, FIVE, 15, spread)
    _, tokens = noise_free_bias(table, CHINCHILLA, planted, 1e24)
    assert 100 * tokens == pytest.approx(percent, abs=6e-5)


def test_vertices_of_parabolas_are_exact() -> None:
    sizes = np.geomspace(1e6, 1e8, 7)
    parts = [
        pd.DataFrame(
            {
                "params": sizes,
                "flops": flops,
                "tokens": flops / 6 / sizes,
                "loss": 3 + 0.1 * np.log(sizes / best) ** 2,
            }
        )
        for flops, best in ((1e16, 5e6), (1e17, 2e7))
    ]
    found = isoflop_profiles(pd.concat(parts), resamples=0)
    vertices = [p.vertex.value for p in found.profiles if p.vertex]
    assert vertices == pytest.approx([5e6, 2e7])
    assert found.a.value == pytest.approx(np.log10(4))
    assert found.a.value + found.b.value == pytest.approx(1)


def test_a_budget_without_a_minimum_among_its_points_is_refused_by_name() -> None:
    table = isoflop_grid(HOFFMANN, FIVE, 7, 4)
    first, last = table["flops"] == FIVE[0], table["flops"] == FIVE[-1]
    table.loc[first, "loss"] = 3 + 0.01 * np.arange(7) + 0.0001 * np.arange(7) ** 2
    table.loc[last, "loss"] = 3 - 0.01 * np.arange(7.0) ** 2
    found = isoflop_profiles(table, resamples=50)
    refused = [type(p.refusal) for p in found.profiles]
    assert refused == [VertexOutside, *[type(None)] * 3, CurvatureNotPositive]
    assert found.notices[0].rows == tuple(range(7))
    assert len([p for p in found.profiles if p.vertex]) == 3


def test_fewer_than_two_budgets_give_no_exponent() -> None:
    with pytest.raises(RefusedError) as refusal:
        isoflop_profiles(isoflop_grid(HOFFMANN, FIVE[:1], 7, 4))
    assert isinstance(refusal.value.notice, TooFewPoints)


def test_budgets_are_told_apart_though_runs_miss_them_a_little() -> None:
    table = isoflop_grid(HOFFMANN, FIVE, 7, 4)
    table["flops"] *= np.exp(np.random.default_rng(0).normal(scale=0.02, size=len(table)))
    groups = budgets(Table.read(table))
    assert [len(group) for group in groups] == [7] * 5


def test_intervals_cover_the_truth() -> None:
    truth = BESIROGLU["beta"] / (BESIROGLU["alpha"] + BESIROGLU["beta"])
    grid = [
        isoflop_grid(BESIROGLU, np.geomspace(1e18, 1e21, 5), 7, 3, noise=0.003, seed=seed)
        for seed in range(60)
    ]
    inside = [truth in isoflop_profiles(t, resamples=300, frontier=False).a for t in grid]
    assert 0.85 <= np.mean(inside) <= 1.0
