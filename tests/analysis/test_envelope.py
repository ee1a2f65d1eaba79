"""Approach 1 and the interpolated profiles find planted exponents."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import RefusedError
from analysis.envelope import envelope, lower_hull
from analysis.interpolated import interpolated_profiles
from analysis.laws.chinchilla import CHINCHILLA
from analysis.notices import VertexOutside
from analysis.synthetic import HOFFMANN, as_arrays, isoflop_grid

TRUE_A = HOFFMANN["beta"] / (HOFFMANN["alpha"] + HOFFMANN["beta"])


def curves(sizes: int = 40, points: int = 400) -> pd.DataFrame:
    """Training curves of many sizes, each evaluated often: loss as if every point were final."""
    params = np.repeat(np.geomspace(1e7, 1e10, sizes), points)
    tokens = np.tile(np.geomspace(1e8, 1e12, points), sizes)
    at = {"params": params, "tokens": tokens}
    flops = 6 * params * tokens
    frame = pd.DataFrame(at | {"flops": flops, "loss": CHINCHILLA.predict(as_arrays(HOFFMANN), at)})
    frame["run"] = [f"run-{size:.3g}" for size in params]
    return frame[(flops > 1e18) & (flops < 1e21)]


def test_the_envelope_recovers_the_exponents() -> None:
    found = envelope(curves(), resamples=50)
    assert found.a.value == pytest.approx(TRUE_A, abs=0.01)
    assert found.b.value == pytest.approx(1 - TRUE_A, abs=0.01)
    assert found.a.low <= found.a.value <= found.a.high
    assert len(found.flops) == 100


def test_coarse_bins_are_further_off() -> None:
    table = curves()
    errors = [abs(envelope(table, bins=bins, resamples=0).a.value - TRUE_A) for bins in (10, 300)]
    assert errors[1] < errors[0]


def test_the_hull_never_rises_and_lies_under_every_point() -> None:
    table = curves(8, 60)
    flops, losses = table["flops"].to_numpy(), table["loss"].to_numpy()
    x, y = lower_hull(flops, losses)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) <= 0).all()
    for at, low in zip(x, y, strict=True):
        assert low <= losses[flops <= at].min() + 1e-12


def test_two_sizes_have_no_envelope_to_speak_of() -> None:
    with pytest.raises(RefusedError, match="2 sizes are on the envelope"):
        envelope(curves(2))


def test_interpolated_profiles_recover_the_exponent() -> None:
    table = isoflop_grid(HOFFMANN, np.geomspace(1e18, 1e22, 8), 13, 8, noise=0.0005)
    found = interpolated_profiles(table, loss_noise=0.0012, resamples=200)
    assert found.a.value == pytest.approx(TRUE_A, abs=0.02)
    assert TRUE_A in found.a
    assert found.a.value + found.b.value == pytest.approx(1)


def test_an_interpolated_minimum_at_the_end_is_refused_by_name() -> None:
    table = isoflop_grid(HOFFMANN, np.geomspace(1e18, 1e22, 8), 13, 8)
    lowest = table["flops"] == table["flops"].min()
    table.loc[lowest, "loss"] = 3 + 0.01 * np.arange(13)
    found = interpolated_profiles(table, loss_noise=0.001, resamples=100)
    assert [type(notice) for notice in found.notices] == [VertexOutside]
    assert found.notices[0].rows == tuple(range(13))
