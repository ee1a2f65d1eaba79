"""What planning saves: a plan against a plain grid, measured on simulated tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.design import System, Target, least_cost, next_runs, target_of
from analysis.laws.base import Array, ComputeRule, Law
from analysis.parametric import fit
from analysis.result import Fit
from analysis.robust import DELTA, minimise


@dataclass(frozen=True)
class Saving:
    """A plan against a plain grid: FLOPs for the same standard deviation of the log target.

    `grid_sd` and `plan_sd` are measured over simulated tables, not computed; `bound` is the
    cost below which no design over the candidates reaches that standard deviation, were the law
    known in advance.
    """

    grid_flops: float
    plan_flops: float
    bound: float
    grid_sd: float
    plan_sd: float
    runs: int

    @property
    def share(self) -> float:
        """FLOPs saved over the grid's."""
        return 1 - self.plan_flops / self.grid_flops


def saving(
    law: Law,
    values: Mapping[str, float],
    grid: pd.DataFrame,
    choices: pd.DataFrame,
    *,
    pilot: pd.DataFrame,
    flops: float,
    target: Target = "params",
    noise: float = 0.005,
    tables: int = 400,
    seed: int = 0,
) -> Saving:
    """FLOPs that a plan from a noisy pilot saves against a grid, on a planted law.

    The pilot's cost counts. The plan knows only what was fitted to the pilot; both designs are
    then measured on `tables` simulated tables each. Cheap runs win as long as the law holds for
    them: leave out of `choices` what is too small or too short to lie on the curve.
    """
    planted = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
    rng = np.random.default_rng(seed)
    first = pilot.assign(loss=_measure(law, planted, pilot, noise, rng, 1)[0])
    fitted = fit(first, law, resamples=0)
    known = fit(grid.assign(loss=_measure(law, planted, grid, 0.0, rng, 1)[0]), law, resamples=0)
    unit = System(known, grid, flops, target, noise)
    wanted = unit.sd(unit.rows)
    trusted = _with_noise(fitted, noise)
    plan = next_runs(trusted, first, choices, flops=flops, target=target, until=wanted)
    design = pd.concat([pilot, plan.runs], ignore_index=True)
    sds = [
        _simulated_sd(law, planted, runs, flops, target, noise, rng, tables)
        for runs in (grid, design)
    ]
    bound, _ = least_cost(_with_noise(known, noise), choices, flops=flops, target=target, sd=wanted)
    return Saving(
        grid_flops=float(grid["flops"].sum()),
        plan_flops=float(design["flops"].sum()),
        bound=bound,
        grid_sd=sds[0],
        plan_sd=sds[1],
        runs=len(design),
    )


def _measure(
    law: Law,
    planted: Mapping[str, Array],
    runs: pd.DataFrame,
    noise: float,
    rng: np.random.Generator,
    tables: int,
) -> Array:
    """Losses of simulated tables (tables, N)."""
    loss = law.predict(planted, {name: runs[name].to_numpy(np.float64) for name in law.columns})
    return np.asarray(loss * np.exp(noise * rng.standard_normal((tables, len(runs)))))


def _simulated_sd(
    law: Law,
    planted: Mapping[str, Array],
    runs: pd.DataFrame,
    flops: float,
    target: Target,
    noise: float,
    rng: np.random.Generator,
    tables: int,
) -> float:
    """Spread of the log target over fits of simulated tables: half its central 68 %."""
    columns = {name: runs[name].to_numpy(np.float64) for name in law.columns}
    log_loss = np.log(_measure(law, planted, runs, noise, rng, tables))
    problem = law.problem(columns, np.log(law.predict(planted, columns)))
    theta = problem.coordinates(np.array([float(planted[name]) for name in law.names]))
    starts = np.repeat(theta[None], tables, axis=0)
    found = minimise(problem, starts, log_loss, np.ones((1, len(runs))), DELTA, 1e-9).theta_RP
    logs = np.log(target_of(law, problem.natural(found), ComputeRule(), flops, target))
    low, high = np.quantile(logs, [0.16, 0.84])
    return float((high - low) / 2)


def _with_noise(fitted: Fit, noise: float) -> Fit:
    """The fit, trusting a noise known from elsewhere rather than a pilot's few residuals."""
    return replace(fitted, diagnostics=replace(fitted.diagnostics, residual_sd=noise))
