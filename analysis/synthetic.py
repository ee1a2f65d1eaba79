"""Tables drawn from a known law: to test an estimator, to weigh a design, to show an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.laws.base import Array, ComputeRule
from analysis.laws.chinchilla import CHINCHILLA

HOFFMANN: Mapping[str, float] = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
"""Published by Hoffmann et al. (arXiv 2203.15556, §D.3)."""

BESIROGLU: Mapping[str, float] = {
    "E": 1.8172,
    "A": 477.8,
    "B": 2143.4,
    "alpha": 0.34731,
    "beta": 0.36717,
}
"""The same data refitted by Besiroglu et al. (arXiv 2404.10102)."""


def as_arrays(values: Mapping[str, float]) -> dict[str, Array]:
    """Parameters as 0-d arrays, the form that laws take."""
    return {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}


def isoflop_grid(
    values: Mapping[str, float],
    budgets: Sequence[float] | Array,
    points: int,
    spread: float,
    *,
    noise: float = 0.0,
    seed: int = 0,
    rule: ComputeRule | None = None,
) -> pd.DataFrame:
    """A Chinchilla surface measured at `points` sizes a budget, within ±`spread`× of the optimum.

    `noise` is the standard deviation of log loss.
    """
    rule, planted = rule or ComputeRule(), as_arrays(values)
    flops = np.repeat(np.asarray(budgets, dtype=np.float64), points)
    factors = np.tile(np.geomspace(1 / spread, spread, points), len(budgets))
    params = CHINCHILLA.optimum(planted, flops, rule) * factors
    tokens = rule.tokens(flops, params)
    loss = CHINCHILLA.predict(planted, {"params": params, "tokens": tokens})
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss, "flops": flops})
