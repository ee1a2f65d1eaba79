"""Approach 2: IsoFLOP profiles (Hoffmann et al. 2022, arXiv 2203.15556, §3.2).

At each budget the loss is a parabola in log N; its vertex is the optimal size there; vertices
regressed on the budget, both in logs, give N* ∝ C^a.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compute_rule import compute_rule
from analysis.estimate import LEVEL, Estimate
from analysis.laws.base import Array, ComputeRule, Law
from analysis.laws.envelope import ENVELOPE
from analysis.notices import (
    CurvatureNotPositive,
    Notice,
    RefusedError,
    TooFewPoints,
    VertexOutside,
    WeaklyIdentified,
)
from analysis.result import Allocation, extrapolation_notice
from analysis.robust import minimise
from analysis.table import Table

BUDGET_GAP = 0.2
"""Runs whose log FLOPs differ by less belong to one budget, where the table names none."""


@dataclass(frozen=True, eq=False)
class Profile:
    """One budget: its points, its parabola L = p₀ + p₁x + p₂x² in x = log N − centre.

    `vertex` is N* with its interval, `minimum` the loss there; both None where `refusal` says
    why this budget has none.
    """

    flops: float
    rows: tuple[int, ...]
    params: Array
    losses: Array
    centre: float
    parabola: Array
    vertex: Estimate | None
    minimum: Estimate | None
    refusal: Notice | None

    def curve(self, params: Array) -> Array:
        """The parabola's loss at given sizes."""
        return np.asarray(
            np.polynomial.polynomial.polyval(np.log(params) - self.centre, self.parabola)
        )


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
    `RefusedError` where fewer than two budgets remain.
    """
    table = Table.read(table)
    rule, notices = compute_rule(table)
    groups = budgets(table)
    sheets = [_Sheet(table, rows) for rows in groups]
    short = [s for s in sheets if s.size < 4]
    notices += [s.too_few() for s in short]
    sheets = [s for s in sheets if s.size >= 4]
    noise = _Noise(sheets, resamples, seed)
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
    line_R = _lines(np.log(flops / pivot), vertex_RG)
    depths = _frontier(flops / pivot, minimum_RG) if frontier else None
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


class _Sheet:
    """One budget's points, and the linear map from losses to parabolas."""

    def __init__(self, table: Table, at: NDArray[np.intp]) -> None:
        self.rows = tuple(int(row) for row in table.frame.index[at])
        self.params, self.losses = table.column("params")[at], table.column("loss")[at]
        named = table.column("budget")[at][0] if table.has("budget") else None
        self.flops = float(named or np.exp(np.log(table.flops[at]).mean()))
        log_params = np.log(self.params)
        self.centre = float(log_params.mean())
        self.x = log_params - self.centre
        self.size = len(np.unique(self.x))
        self.design = np.vander(self.x, 3, increasing=True)
        self.solver = np.linalg.pinv(self.design)
        self.parabola = self.solver @ self.losses
        self.fitted = self.design @ self.parabola
        self.leverage = np.einsum("np,pn->n", self.design, self.solver)

    def too_few(self) -> Notice:
        return TooFewPoints(
            f"the budget of {self.flops:.3g} FLOPs has {self.size} sizes, 4 are needed", self.rows
        )

    def solve(self, losses_RN: Array) -> tuple[Array, Array]:
        """log N at the vertex and the loss there (R,); NaN where there is no minimum."""
        p0, p1, p2 = (losses_RN @ self.solver.T).T
        p2 = np.where(p2 > 0, p2, np.nan)
        return self.centre - p1 / (2 * p2), p0 - p1**2 / (4 * p2)

    def refusal(self) -> Notice | None:
        if self.parabola[2] <= 0:
            message = f"the profile at {self.flops:.3g} FLOPs has no minimum: it curves downwards"
            return CurvatureNotPositive(message, self.rows)
        vertex = -self.parabola[1] / (2 * self.parabola[2])
        if self.x.min() <= vertex <= self.x.max():
            return None
        side = "below" if vertex < self.x.min() else "above"
        message = (
            f"the vertex at {self.flops:.3g} FLOPs, {np.exp(self.centre + vertex):.3g} parameters, "
            f"lies {side} all of its points"
        )
        return VertexOutside(message, self.rows)

    def profile(self, noise: _Noise, level: float) -> Profile:
        refusal = self.refusal()
        vertex = minimum = None
        if refusal is None:
            log_vertex, depth = self.solve(noise.losses(self))
            vertex = Estimate.of(np.exp(log_vertex[0]), np.exp(log_vertex[1:]), level)
            minimum = Estimate.of(depth[0], depth[1:], level)
        return Profile(
            self.flops,
            self.rows,
            self.params,
            self.losses,
            self.centre,
            self.parabola,
            vertex,
            minimum,
            refusal,
        )


class _Noise:
    """Losses redrawn from the parabolas' own residuals, pooled over budgets.

    Budgets have too few points to be resampled by rows. Residuals are relative to the loss, and
    scaled by 1/√(1 − leverage) to undo the parabola's pull (Davison & Hinkley 1997, §6.2.3).
    """

    def __init__(self, sheets: Sequence[_Sheet], resamples: int, seed: int) -> None:
        self.resamples, self.seed = resamples, seed
        pool = [
            (s.losses - s.fitted) / s.fitted / np.sqrt(np.maximum(1 - s.leverage, 1e-3))
            for s in sheets
        ]
        self.pool = np.concatenate(pool) if pool else np.zeros(1)
        self.drawn: dict[tuple[int, ...], Array] = {}

    def losses(self, sheet: _Sheet) -> Array:
        """The measured losses, then as many redrawn ones as asked for (1 + R, N)."""
        if sheet.rows not in self.drawn:
            rng = np.random.default_rng((self.seed, int(sheet.rows[0])))
            shape = (self.resamples, len(sheet.losses))
            redrawn = sheet.fitted * (1 + rng.choice(self.pool - self.pool.mean(), size=shape))
            self.drawn[sheet.rows] = np.concatenate([sheet.losses[None], redrawn])
        return self.drawn[sheet.rows]


def _lines(x_G: Array, y_RG: Array) -> Array:
    """Least-squares intercept and slope (R, 2), NaN vertices left out of their line."""
    weight = np.isfinite(y_RG).astype(np.float64)
    y_RG = np.where(weight > 0, y_RG, 0.0)
    count = weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        x_mean, y_mean = (weight * x_G).sum(axis=1) / count, (weight * y_RG).sum(axis=1) / count
        x_off = weight * (x_G - x_mean[:, None])
        slope = (x_off * y_RG).sum(axis=1) / (x_off**2).sum(axis=1)
        return np.stack([y_mean - slope * x_mean, slope], axis=1)


def _frontier(flops_G: Array, minimum_RG: Array) -> Array | None:
    """E, K, c of the power law through the vertices' losses (R, 3)."""
    if len(flops_G) < 4:
        return None
    weights = np.isfinite(minimum_RG).astype(np.float64)
    logs = np.log(np.where(weights > 0, minimum_RG, 1.0))
    problem = ENVELOPE.problem({"flops": flops_G}, logs[0])
    starts = problem.starts(logs[0])
    best = minimise(problem, starts, logs[:1], weights[:1], delta=np.inf)
    start = np.repeat(best.theta_RP[[int(best.objective_R.argmin())]], len(logs), axis=0)
    return problem.natural(minimise(problem, start, logs, weights, np.inf, 1e-7).theta_RP)
