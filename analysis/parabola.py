"""One budget's parabola, its vertex, and what noise does to both: the parts of Approach 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.estimate import Estimate
from analysis.laws.base import Array
from analysis.laws.envelope import ENVELOPE
from analysis.notices import CurvatureNotPositive, Notice, TooFewPoints, VertexOutside
from analysis.robust import minimise
from analysis.table import Table


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


class Sheet:
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

    def profile(self, noise: Noise, level: float) -> Profile:
        refusal = self.refusal()
        vertex = minimum = None
        if refusal is None:
            log_vertex, depth = self.solve(noise.losses(self))
            with np.errstate(over="ignore"):  # a nearly straight resample has its vertex nowhere
                vertices = np.exp(log_vertex)
            vertex = Estimate.of(vertices[0], vertices[1:], level)
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


class Noise:
    """Losses redrawn from the parabolas' own residuals, pooled over budgets.

    Budgets have too few points to be resampled by rows. Residuals are relative to the loss, and
    scaled by 1/√(1 − leverage) to undo the parabola's pull (Davison & Hinkley 1997, §6.2.3).
    """

    def __init__(self, sheets: Sequence[Sheet], resamples: int, seed: int) -> None:
        self.resamples, self.seed = resamples, seed
        pool = [
            (s.losses - s.fitted) / s.fitted / np.sqrt(np.maximum(1 - s.leverage, 1e-3))
            for s in sheets
        ]
        self.pool = np.concatenate(pool) if pool else np.zeros(1)
        self.drawn: dict[tuple[int, ...], Array] = {}

    def losses(self, sheet: Sheet) -> Array:
        """The measured losses, then as many redrawn ones as asked for (1 + R, N)."""
        if sheet.rows not in self.drawn:
            rng = np.random.default_rng((self.seed, int(sheet.rows[0])))
            shape = (self.resamples, len(sheet.losses))
            redrawn = sheet.fitted * (1 + rng.choice(self.pool - self.pool.mean(), size=shape))
            self.drawn[sheet.rows] = np.concatenate([sheet.losses[None], redrawn])
        return self.drawn[sheet.rows]


def lines(x_G: Array, y_RG: Array) -> Array:
    """Least-squares intercept and slope (R, 2), NaN vertices left out of their line."""
    weight = np.isfinite(y_RG).astype(np.float64)
    y_RG = np.where(weight > 0, y_RG, 0.0)
    count = weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        x_mean, y_mean = (weight * x_G).sum(axis=1) / count, (weight * y_RG).sum(axis=1) / count
        x_off = weight * (x_G - x_mean[:, None])
        slope = (x_off * y_RG).sum(axis=1) / (x_off**2).sum(axis=1)
        return np.stack([y_mean - slope * x_mean, slope], axis=1)


def vertex_frontier(flops_G: Array, minimum_RG: Array) -> Array | None:
    """E, K, c of the power law through the vertices' losses (R, 3)."""
    if len(flops_G) < 4:
        return None
    weights = (np.isfinite(minimum_RG) & (minimum_RG > 0)).astype(np.float64)
    logs = np.log(np.where(weights > 0, minimum_RG, 1.0))
    problem = ENVELOPE.problem({"flops": flops_G}, logs[0])
    starts = problem.starts(logs[0])
    best = minimise(problem, starts, logs[:1], weights[:1], delta=np.inf)
    start = np.repeat(best.theta_RP[[int(best.objective_R.argmin())]], len(logs), axis=0)
    return problem.natural(minimise(problem, start, logs, weights, np.inf, 1e-7).theta_RP)
