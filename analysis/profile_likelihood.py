"""How well one parameter is known, whatever the others: the objective with it held.

For Huber's loss twice the rise of the objective over E[ψ²]/E[ψ′] is χ² with one degree of
freedom (Huber & Ronchetti 2009, Robust Statistics, §7.6, the τ test).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import chi2

from analysis.estimate import LEVEL, Estimate
from analysis.laws.base import Array, Law
from analysis.laws.registry import get
from analysis.notices import AnalysisError
from analysis.parametric import optimise
from analysis.robust import DELTA, minimise
from analysis.table import Table

POINTS = 121


@dataclass(frozen=True, eq=False)
class ParameterProfile:
    """Objective against the held value; `threshold` is where the interval ends.

    An end of the interval is unbounded where the objective never rises to the threshold.
    """

    name: str
    values: Array
    objective: Array
    threshold: float
    estimate: Estimate


def profile(
    table: Table | pd.DataFrame,
    name: str,
    law: str | Law = "chinchilla",
    *,
    delta: float = DELTA,
    level: float = LEVEL,
) -> ParameterProfile:
    """The profile of one parameter that is a coordinate of its own, such as E or an exponent.

    Raises `AnalysisError` for another: a coefficient such as A has no meaning apart from α.
    """
    law = get(law)
    table = Table.read(table, needs=(*law.columns, law.target))
    log_target = np.log(table.column(law.target))
    problem = law.problem(table.columns(law.columns), log_target)
    best = optimise(problem, log_target, delta, table.weights)
    p, held = law.names.index(name) if name in law.names else -1, -1
    if p >= 0:
        moved = problem.natural(best.theta_P + 1e-3 * np.eye(len(best.theta_P)))
        moves = moved[:, p] != problem.natural(best.theta_P[None])[0, p]
        held = int(np.flatnonzero(moves)[0]) if moves.sum() == 1 else -1
    if held < 0:
        raise AnalysisError(f"{name!r} is no parameter of the {law.title} law that can be held")
    grid = np.linspace(problem.low_P[held], problem.high_P[held], 4 * POINTS)
    span = _span(grid, best.theta_P[held])
    theta = np.repeat(best.theta_P[None], len(span), axis=0)
    theta[:, held] = span
    fixed = np.zeros(theta.shape[1], dtype=np.bool_)
    fixed[held] = True
    solution = minimise(problem, theta, log_target[None], table.weights[None], delta, fixed_P=fixed)
    values = problem.natural(solution.theta_RP)[:, p]
    predicted, _ = problem.log_predict(best.theta_P[None])
    threshold = best.objective + chi2.ppf(level, 1) / 2 * _scale(
        log_target - predicted[0], delta, len(best.theta_P)
    )
    centre = float(problem.natural(best.theta_P[None])[0, p])
    low, high = _ends(values, solution.objective_R, threshold, centre)
    parameter = law.parameters[p]
    low = parameter.low if low == -np.inf else low
    high = parameter.high if high == np.inf else high
    return ParameterProfile(
        name, values, solution.objective_R, threshold, Estimate(centre, low, high)
    )


def _span(grid: Array, centre: float) -> Array:
    """Points dense about the centre, sparse towards the bounds."""
    near = centre + np.sinh(np.linspace(-4, 4, POINTS)) / np.sinh(4) * float(np.ptp(grid))
    return np.unique(np.append(np.clip(near, grid[0], grid[-1]), centre))


def _scale(residuals: Array, delta: float, parameters: int) -> float:
    """E[ψ²]/E[ψ′] of the residuals, corrected for the parameters fitted.

    The density of residuals near zero, E[ψ′], is smoothed over a window of their spread: few
    points lie within δ.
    """
    size = len(residuals)
    window = max(delta, float(np.quantile(np.abs(residuals), 0.5)))
    within = max(float((np.abs(residuals) <= window).mean()) * min(delta / window, 1.0), 1 / size)
    squares = float((np.clip(residuals, -delta, delta) ** 2).mean())
    return squares / within * size / max(size - parameters, 1)


def _ends(values: Array, objective: Array, threshold: float, centre: float) -> tuple[float, float]:
    """Where the profile crosses the threshold on either side of the centre."""
    below = values <= centre
    low = _crossing(values[below][::-1], objective[below][::-1], threshold)
    above = values >= centre
    high = _crossing(values[above], objective[above], threshold)
    return (-np.inf if low is None else low), (np.inf if high is None else high)


def _crossing(values: Array, objective: Array, threshold: float) -> float | None:
    over = np.flatnonzero(objective > threshold)
    if not len(over) or over[0] == 0:
        return None
    i = int(over[0])
    share = (threshold - objective[i - 1]) / (objective[i] - objective[i - 1])
    return float(values[i - 1] + share * (values[i] - values[i - 1]))
