"""IsoFLOP profiles without a parabola: the minimum of an interpolated profile, weighted.

Porian et al. 2024, Resolving Discrepancies in Compute-Optimal Scaling of Language Models,
arXiv 2406.19146, §3.2. Akima's spline in log N bends to the profile's own shape, so wide or
lopsided profiles carry no parabola's bias; what it costs is that noise moves the minimum more.
Budgets weigh by the inverse variance that seed noise gives their minimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from analysis.compute_rule import compute_rule
from analysis.estimate import LEVEL, Estimate
from analysis.laws.base import Array
from analysis.notices import Notice, RefusedError, TooFewPoints, VertexOutside
from analysis.profiles import budgets
from analysis.table import Table

GRID_PER_POINT = 25
LEAST_SPREAD = 0.33
"""A minimum is known no better than to this share of the typical gap between sizes."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """One budget's minimum: log N of its resamples (R,), NaN where they have none inside."""

    flops: float
    rows: tuple[int, ...]
    params: float
    log_params_R: Array
    spread: float


@dataclass(frozen=True, eq=False)
class InterpolatedProfiles:
    """Minima of all budgets and the weighted power law through them: N* ∝ C^a, D* ∝ C^b."""

    minima: tuple[Minimum, ...]
    a: Estimate
    b: Estimate
    notices: tuple[Notice, ...]


def interpolated_profiles(
    table: Table | pd.DataFrame,
    *,
    loss_noise: float,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> InterpolatedProfiles:
    """Minima of Akima-interpolated profiles under `loss_noise`, a standard deviation in nats.

    Where several runs of a budget share a size the best counts. A budget whose minimum is at the
    end of its sizes, or is so in half of the resamples, is refused by name. Raises
    `RefusedError` where fewer than two budgets remain.
    """
    table = Table.read(table)
    rule, notices = compute_rule(table)
    rng = np.random.default_rng(seed)
    minima: list[Minimum] = []
    for at in budgets(table):
        found = _minimum(table, at, loss_noise, resamples, rng)
        if isinstance(found, Minimum):
            minima.append(found)
        else:
            notices.append(found)
    if len(minima) < 2:
        message = f"{len(minima)} budgets have an inner minimum, 2 are needed"
        raise RefusedError(TooFewPoints(message, table.rows))
    slope, slopes_R = _weighted_slopes(minima)
    return InterpolatedProfiles(
        tuple(minima),
        Estimate.of(slope, slopes_R, level),
        Estimate.of(1 - rule.gamma * slope, 1 - rule.gamma * slopes_R, level),
        tuple(notices),
    )


def _minimum(
    table: Table, at: NDArray[np.intp], noise: float, resamples: int, rng: np.random.Generator
) -> Minimum | Notice:
    rows = tuple(int(row) for row in table.frame.index[at])
    best = table.frame.iloc[at].groupby("params")["loss"].min()
    params, losses = best.index.to_numpy(np.float64), best.to_numpy(np.float64)
    flops = float(np.exp(np.log(table.flops[at]).mean()))
    if len(params) < 4:
        message = f"the budget of {flops:.3g} FLOPs has {len(params)} sizes, 4 are needed"
        return TooFewPoints(message, rows)
    grid = np.linspace(np.log(params[0]), np.log(params[-1]), (len(params) - 1) * GRID_PER_POINT)
    drawn = losses[:, None] + noise * rng.standard_normal((len(losses), resamples + 1))
    drawn[:, 0] = losses
    curve = Akima1DInterpolator(np.log(params), np.log(drawn))(grid)
    lowest = np.argmin(curve, axis=0)
    inside = (lowest > 0) & (lowest < len(grid) - 1)
    if not inside[0] or inside[1:].sum() < resamples / 2:
        message = f"the profile at {flops:.3g} FLOPs has its minimum at the end of its sizes"
        return VertexOutside(message, rows)
    logs = np.where(inside[1:], grid[lowest[1:]], np.nan)
    gap = float(grid[1] - grid[0]) * GRID_PER_POINT
    spread = max(float(np.nanstd(logs)), LEAST_SPREAD * gap) / float(inside[1:].mean())
    centre = float(np.exp(np.nanmedian(logs)))
    return Minimum(flops, rows, centre, logs, spread)


def _weighted_slopes(minima: Sequence[Minimum]) -> tuple[float, Array]:
    """Slope of log N* on log C for the medians, and for every resample (R,)."""
    log_flops = np.log([minimum.flops for minimum in minima])
    medians = np.log([minimum.params for minimum in minima])
    logs_RM = np.stack([minimum.log_params_R for minimum in minima], axis=1)
    every = np.concatenate([medians[None], logs_RM])
    weight = np.where(np.isfinite(every), [1 / minimum.spread**2 for minimum in minima], 0.0)
    every = np.nan_to_num(every)
    x = log_flops - (weight * log_flops).sum(axis=1, keepdims=True) / weight.sum(
        axis=1, keepdims=True
    )
    slopes = (weight * x * every).sum(axis=1) / (weight * x**2).sum(axis=1)
    return float(slopes[0]), slopes[1:]
