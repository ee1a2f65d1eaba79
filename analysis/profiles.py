"""Approach 2: IsoFLOP profiles (Hoffmann et al. 2022, arXiv 2203.15556, §3.2).

At each budget the loss is a parabola in log N; its vertex is the optimal size there; vertices
regressed on the budget, both in logs, give N* ∝ C^a.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.allocation import Allocation, extrapolation_notice
from analysis.compute_rule import compute_rule
from analysis.estimate import LEVEL, Estimate
from analysis.laws.base import Array, ComputeRule, Law
from analysis.notices import (
    Notice,
    RefusedError,
    TooFewPoints,
    WeaklyIdentified,
)
from analysis.parabola import Noise, Profile, Sheet, lines, vertex_frontier
from analysis.table import Table

__all__ = ["Profile", "Profiles", "budgets", "isoflop_profiles", "noise_free_bias"]

BUDGET_GAP = 0.2
"""Runs whose log FLOPs differ by less belong to one budget, where the table names none."""


@dataclass(frozen=True, eq=False)
class Profiles:
    """All budgets, and the power laws through their vertices.

    `line` is log N* = line[0] + line[1] · log(C / pivot); `frontier_P` are E, K, c of
    L* = E + K/(C/pivot)^c, None with fewer than four vertices. Samples are resampled losses'.
    """

    profiles: tuple[Profile, ...]
    rule: ComputeRule
    pivot: float
    line: Array
    line_samples: Array
    frontier_P: Array | None
    frontier_samples: Array | None
    largest: float
    notices: tuple[Notice, ...]
    level: float = LEVEL

    @property
    def a(self) -> Estimate:
        """Exponent of N* in C."""
        return Estimate.of(self.line[1], self.line_samples[:, 1], self.level)

    @property
    def b(self) -> Estimate:
        """Exponent of D* in C."""
        gamma = self.rule.gamma
        return Estimate.of(
            1 - gamma * self.line[1], 1 - gamma * self.line_samples[:, 1], self.level
        )

    def allocate(self, flops: float) -> Allocation:
        """N*, D* and, with four vertices or more, the loss at `flops`."""
        params, params_R = self.params(flops, self.line), self.params(flops, self.line_samples)
        tokens, tokens_R = self.rule.tokens(flops, params), self.rule.tokens(flops, params_R)
        with np.errstate(all="ignore"):
            ratio, ratio_R = tokens / params, tokens_R / params_R
        factor = flops / self.largest
        return Allocation(
            flops=float(flops),
            params=Estimate.of(params, params_R, self.level),
            tokens=Estimate.of(tokens, tokens_R, self.level),
            tokens_per_param=Estimate.of(ratio, ratio_R, self.level),
            loss=self.loss(flops),
            extrapolation=float(factor),
            notices=extrapolation_notice(flops, factor),
        )

    def params(self, flops: float | Array, line: Array) -> Array:
        """N* at `flops` by lines (…, 2)."""
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(line[..., 0] + line[..., 1] * np.log(flops / self.pivot)))

    def loss(self, flops: float) -> Estimate | None:
        """The loss at the vertex of `flops`, through the vertices' own power law."""
        if self.frontier_P is None or self.frontier_samples is None:
            return None
        at = flops / self.pivot
        value, samples = (
            p[..., 0] + p[..., 1] * at ** -p[..., 2]
            for p in (self.frontier_P, self.frontier_samples)
        )
        return Estimate.of(value, samples, self.level)

    def to_dict(self) -> dict[str, Any]:
        """The vertices and exponents as JSON values."""
        return {
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "profiles": [
                {
                    "flops": p.flops,
                    "rows": list(p.rows),
                    "params": p.vertex and p.vertex.to_dict(),
                    "loss": p.minimum and p.minimum.to_dict(),
                    "refused": p.refusal and p.refusal.to_dict(),
                }
                for p in self.profiles
            ],
            "warnings": [notice.to_dict() for notice in self.notices],
        }


def isoflop_profiles(
    table: Table | pd.DataFrame,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
    frontier: bool = True,
) -> Profiles:
    """Fit the profiles of every budget and the line through their vertices.

    `frontier` also fits the vertices' losses, so that allocations can tell a loss. A budget
    without a minimum among its points is refused by name and left out. Raises
    `RefusedError` where fewer than two budgets remain (`has_profiles` tells whether the runs were
    laid out for any).
    """
    table = Table.read(table)
    rule, notices = compute_rule(table)
    groups = budgets(table)
    sheets = [Sheet(table, rows) for rows in groups]
    short = [s for s in sheets if s.size < 4]
    notices += [s.too_few() for s in short]
    sheets = [s for s in sheets if s.size >= 4]
    noise = Noise(sheets, resamples, seed)
    profiles = [sheet.profile(noise, level) for sheet in sheets]
    notices += [p.refusal for p in profiles if p.refusal]
    kept = [(s, p) for s, p in zip(sheets, profiles, strict=True) if p.vertex]
    if len(kept) < 2:
        why = "; ".join(notice.message for notice in notices)
        message = f"the vertices of {len(kept)} budgets give no exponent, 2 are needed: {why}"
        raise RefusedError(TooFewPoints(message, table.rows))
    flops = np.array([p.flops for _, p in kept])
    pivot = float(np.exp(np.log(flops).mean()))
    solved = [s.solve(noise.losses(s)) for s, _ in kept]
    vertex_RG = np.stack([vertex for vertex, _ in solved], axis=1)
    minimum_RG = np.stack([minimum for _, minimum in solved], axis=1)
    line_R = lines(np.log(flops / pivot), vertex_RG)
    depths = vertex_frontier(flops / pivot, minimum_RG) if frontier else None
    lost = float(np.isnan(vertex_RG[1:]).any(axis=1).mean()) if resamples else 0.0
    if lost > (1 - level) / 2:
        message = f"in {lost:.0%} of resamples some budget has no minimum"
        notices.append(WeaklyIdentified(message))
    return Profiles(
        profiles=tuple(profiles),
        rule=rule,
        pivot=pivot,
        line=line_R[0],
        line_samples=line_R[1:],
        frontier_P=None if depths is None else depths[0],
        frontier_samples=None if depths is None else depths[1:],
        largest=float(table.flops.max()),
        notices=(*table.notices, *notices),
        level=level,
    )


def has_profiles(table: Table) -> bool:
    """Whether any budget is spent on models of several sizes."""
    return any(len(np.unique(table.column("params")[rows])) > 1 for rows in budgets(table))


def budgets(table: Table) -> list[NDArray[np.intp]]:
    """Positions of the rows of each budget, cheapest first."""
    if table.has("budget"):
        labels = table.column("budget")
        return [np.flatnonzero(labels == value) for value in np.unique(labels[~np.isnan(labels)])]
    log_flops = np.log(table.flops)
    order = np.argsort(log_flops, kind="stable")
    breaks = np.flatnonzero(np.diff(log_flops[order]) > BUDGET_GAP) + 1
    return [np.sort(group) for group in np.split(order, breaks)]


def noise_free_bias(
    table: Table | pd.DataFrame, law: Law, values: Mapping[str, Array], flops: Array | float
) -> tuple[Array, Array]:
    """Relative errors of Approach 2's N* and D* at `flops` on this design, were `law` exact.

    A parabola is not the shape of a profile, so the vertices are off even without noise; how
    much depends on the spread and the centring of the points.
    """
    table = Table.read(table)
    exact = law.predict(values, table.columns(law.columns))
    found = isoflop_profiles(
        replace(table, frame=table.frame.assign(loss=exact)), resamples=0, frontier=False
    )
    truth = law.optimum(values, flops, found.rule)
    params = found.params(flops, found.line)
    tokens = found.rule.tokens(flops, params) / found.rule.tokens(flops, truth)
    return params / truth - 1, tokens - 1
