"""Approach 1: the envelope of training curves (arXiv 2203.15556, §3.1).

At each step of compute the run with the lowest loss tells the size to train: N* and D* are
regressed on those. Coarse steps bias the answer, so there are a hundred at least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.estimate import LEVEL, Estimate
from analysis.laws.base import Array
from analysis.notices import RefusedError, TooFewPoints
from analysis.table import Table

BINS = 100


@dataclass(frozen=True, eq=False)
class Envelope:
    """The best points, one a bin of log FLOPs, and the exponents of N* and D* in C."""

    flops: Array
    losses: Array
    params: Array
    tokens: Array
    a: Estimate
    b: Estimate


def envelope(
    curves: Table | pd.DataFrame,
    *,
    bins: int = BINS,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> Envelope:
    """The envelope of a table with a row for each point of each training curve.

    Intervals redraw whole runs, since the points of one curve share its noise; without a column
    `run` a size is a run. Raises `RefusedError` where fewer than three sizes are on the envelope.
    """
    table = Table.read(curves)
    flops, losses = table.flops, table.column("loss")
    params, tokens = table.column("params"), table.column("tokens")
    runs = table.labels("run") if table.has("run") else params
    _, run_N = np.unique(runs, return_inverse=True)
    edges = np.geomspace(flops.min(), flops.max() * (1 + 1e-12), bins + 1)
    bin_N = np.clip(np.searchsorted(edges, flops, side="right") - 1, 0, bins - 1)
    order = np.lexsort((losses, bin_N))
    best = _first_of_bins(bin_N, order)
    if len(np.unique(params[best])) < 3:
        message = f"{len(np.unique(params[best]))} sizes are on the envelope, 3 are needed"
        raise RefusedError(TooFewPoints(message, table.rows))
    rng = np.random.default_rng(seed)
    slopes = [_slopes(flops, params, tokens, best)]
    for _ in range(resamples):
        drawn = np.bincount(rng.integers(0, run_N.max() + 1, run_N.max() + 1), minlength=1)
        kept = order[np.isin(run_N[order], np.flatnonzero(drawn))]
        slopes.append(_slopes(flops, params, tokens, _first_of_bins(bin_N, kept)))
    slopes_R2 = np.array(slopes)
    a, b = (Estimate.of(slopes_R2[0, i], slopes_R2[1:, i], level) for i in (0, 1))
    return Envelope(flops[best], losses[best], params[best], tokens[best], a, b)


def lower_hull(flops: Array, losses: Array, bins: int = BINS) -> tuple[Array, Array]:
    """The lowest loss of each bin where it is the lowest so far: the envelope to draw."""
    edges = np.geomspace(flops.min(), flops.max() * (1 + 1e-12), bins + 1)
    bin_N = np.clip(np.searchsorted(edges, flops, side="right") - 1, 0, bins - 1)
    best = _first_of_bins(bin_N, np.lexsort((losses, bin_N)))
    best = best[np.argsort(flops[best], kind="stable")]
    falling = losses[best] <= np.minimum.accumulate(losses[best])
    return flops[best][falling], losses[best][falling]


def _first_of_bins(bin_N: NDArray[np.intp], order: NDArray[np.intp]) -> NDArray[np.intp]:
    """The first row of each bin in an order sorted by bin."""
    _, first = np.unique(bin_N[order], return_index=True)
    return order[first]


def _slopes(
    flops: Array, params: Array, tokens: Array, rows: NDArray[np.intp]
) -> tuple[float, float]:
    x = np.log(flops[rows])
    x = x - x.mean()
    if len(rows) < 2 or not x.any():
        return float("nan"), float("nan")
    return (
        float(x @ np.log(params[rows]) / (x @ x)),
        float(x @ np.log(tokens[rows]) / (x @ x)),
    )
