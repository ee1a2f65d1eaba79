"""Gains, crossings and joint fits find what was planted, and doubt what was not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import AnalysisError, Fit, Table, fit
from analysis import joint as joint_module
from analysis.compare import flops_for_loss, gain_at_budget, gain_at_loss
from analysis.crossing import crossing
from analysis.joint import joint_fit
from analysis.laws.registry import get
from analysis.synthetic import HOFFMANN, isoflop_grid

BUDGETS = np.geomspace(1e18, 1e21, 5)


def family(noise: float = 0.003, seed: int = 0, **changes: float) -> pd.DataFrame:
    return isoflop_grid({**HOFFMANN, **changes}, BUDGETS, 9, 5, noise=noise, seed=seed)


@pytest.fixture(scope="module")
def dense() -> Fit:
    return fit(family(), resamples=300)


@pytest.fixture(scope="module")
def steeper() -> Fit:
    """Worse at small budgets, better at large ones: A and α raised together."""
    return fit(family(seed=1, A=1500.0, alpha=0.40), resamples=300)


def test_a_gain_at_a_loss_and_at_the_budget_that_reaches_it_agree(dense: Fit, steeper: Fit) -> None:
    at_budget = gain_at_budget(steeper, dense, 1e20)
    at_loss = gain_at_loss(steeper, dense, at_budget.loss)
    assert at_loss.flops == pytest.approx(1e20, rel=1e-9)
    assert at_loss.gain.value == pytest.approx(at_budget.gain.value, rel=1e-9)


def test_flops_for_a_loss_invert_the_frontier(dense: Fit) -> None:
    loss = dense.frontier(np.array([3e19, 7e21]))[2]
    assert flops_for_loss(dense, loss, dense.values) == pytest.approx([3e19, 7e21], rel=1e-9)


def test_a_loss_below_the_baseline_floor_is_an_unbounded_gain(dense: Fit) -> None:
    better = fit(family(seed=2, E=1.2), resamples=50)
    found = gain_at_loss(better, dense, 1.5)
    assert found.gain.value == np.inf
    assert found.to_dict()["value"] is None


def test_a_family_has_no_gain_over_itself() -> None:
    one, other = (fit(family(seed=seed), resamples=300) for seed in (3, 4))
    found = gain_at_budget(one, other, 1e20)
    assert 1.0 in found.gain
    assert not found.decided


def test_a_planted_crossing_is_found_with_its_interval(dense: Fit, steeper: Fit) -> None:
    exact = [fit(family(0.0, **c), resamples=0) for c in ({}, {"A": 1500.0, "alpha": 0.40})]
    truth = crossing(*exact).flops
    assert truth is not None
    found = crossing(dense, steeper, names=("dense", "steeper"))
    assert found.flops is not None
    assert truth.value in found.flops
    assert found.verdict == "crosses"
    assert (found.better_below, found.better_above) == ("dense", "steeper")


def test_parallel_frontiers_do_not_cross(dense: Fit) -> None:
    cheap = fit(family(seed=5, A=300.0, B=330.0), resamples=300)
    found = crossing(dense, cheap, reach=1.0)
    assert found.flops is None
    assert found.verdict == "does not cross"


def test_what_is_shared_may_be_shared_and_what_is_not_may_not() -> None:
    table = pd.concat(
        [
            family(0.002, 0).assign(architecture="dense"),
            family(0.002, 1, A=300.0, E=1.62).assign(architecture="moe"),
        ],
        ignore_index=True,
    )
    exponents = joint_fit(table, ["alpha", "beta"], resamples=200)
    assert exponents.tenable
    assert exponents.parameters["dense"]["alpha"] == exponents.parameters["moe"]["alpha"]
    assert HOFFMANN["alpha"] in exponents.parameters["dense"]["alpha"]
    assert exponents.objective >= exponents.separate_objective
    floor = joint_fit(table, ["E", "alpha", "beta"], resamples=200)
    assert not floor.tenable


def pair(seed: int, noise: float = 0.003) -> pd.DataFrame:
    """Two architectures of 16 runs each that do share their exponents."""
    budgets = np.geomspace(1e18, 1e21, 4)
    parts = [
        isoflop_grid({**HOFFMANN, **changes}, budgets, 4, 5, noise=noise, seed=2 * seed + i).assign(
            architecture=f"arch-{i}"
        )
        for i, changes in enumerate(({}, {"A": 300.0, "E": 1.62}))
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.slow
def test_a_true_hypothesis_is_refused_as_often_as_the_level_says() -> None:
    """In 4 % of 400 tables; with residuals as they are in 9 %."""
    p_values = [
        joint_fit(pair(seed), ["alpha", "beta"], resamples=99, seed=seed).p_value
        for seed in range(400)
    ]
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.075
    assert 0.4 <= np.mean(np.array(p_values) <= 0.5) <= 0.6


def test_redrawn_losses_scatter_as_the_errors_do() -> None:
    """Of 16 rows, three parameters of their own and half of two shared ones take 4."""
    table = Table.read(pair(0), needs=("params", "tokens", "loss", "architecture"))
    _, group_N = np.unique(table.labels("architecture"), return_inverse=True)
    law = get("chinchilla")
    whole = law.problem(table.columns(law.columns), np.log(table.column("loss")))
    joint = joint_module._GroupedProblem(whole, group_N, np.array([False] * 3 + [True] * 2))
    raw = np.random.default_rng(0).standard_normal(32)
    full = joint_module._residuals(joint, raw)
    assert full == pytest.approx(raw * np.sqrt(16 / 12))
    weights = np.where(np.arange(32) % 2, 4.0, 1.0)
    rng = np.random.default_rng(0)
    drawn = joint_module._redraw(np.zeros(32), full, weights, group_N, 4000, rng)
    for g in (0, 1):
        pool = (full * np.sqrt(weights))[group_N == g]
        scatter = drawn.std(axis=0)[group_N == g] * np.sqrt(weights[group_N == g])
        assert scatter == pytest.approx(np.full(16, pool.std()), rel=0.05)


def test_a_joint_fit_honours_weights_and_refuses_repeated_runs() -> None:
    table = pair(0)
    off = table.assign(loss=table["loss"].mask(table.index % 5 == 0, table["loss"] * 1.2))
    weighted = off.assign(weight=np.where(off.index % 5 == 0, 1e-9, 1.0))
    exact = joint_fit(table.drop(table.index[::5]), ["alpha", "beta"], resamples=0)
    found = joint_fit(weighted, ["alpha", "beta"], resamples=0)
    for name in ("arch-0", "arch-1"):
        alpha = found.parameters[name]["alpha"].value
        assert alpha == pytest.approx(exact.parameters[name]["alpha"].value, rel=1e-3)
    joint_fit(table.assign(run=table.index % 16), ["alpha"], resamples=0)  # one in each
    with pytest.raises(AnalysisError, match="one row of a run, and the table has several of r1"):
        joint_fit(table.assign(run="r1"), ["alpha", "beta"])


def test_sharing_narrows_the_interval() -> None:
    tables = [family(0.003, seed).assign(architecture=f"arch-{seed}") for seed in range(2)]
    joint = joint_fit(pd.concat(tables, ignore_index=True), ["alpha", "beta"], resamples=300)
    alone = fit(tables[0], resamples=300).parameters["alpha"]
    shared = joint.parameters["arch-0"]["alpha"]
    assert shared.high - shared.low < alone.high - alone.low


def test_a_coefficient_that_depends_on_an_exponent_cannot_be_shared() -> None:
    with pytest.raises(AnalysisError, match=r"'A' cannot be shared.*E, alpha, beta"):
        joint_fit(family().assign(architecture="dense"), ["A"])
