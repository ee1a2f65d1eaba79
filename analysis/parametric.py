"""Approach 3: a law fitted to all runs at once, with its intervals (arXiv 2203.15556, §3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import bootstrap
from analysis.compute_rule import compute_rule
from analysis.estimate import LEVEL, Estimate
from analysis.hygiene import hygiene
from analysis.laws.base import Array, ComputeRule, Law, Problem
from analysis.laws.registry import get
from analysis.notices import (
    MixedArchitectures,
    Notice,
    NotIdentifiable,
    ParameterAtBound,
    RefusedError,
    StartsDisagree,
    TooFewPoints,
    WeaklyIdentified,
)
from analysis.result import DataSummary, Diagnostics, Fit
from analysis.robust import DELTA, minimise
from analysis.table import Table

BOOTSTRAP_TOLERANCE = 1e-7
AGREEMENT = 1e-4
DESCENTS = 2
RANK = 1e-8
"""Singular values of the scaled Jacobian under this share of the largest count as zero."""


@dataclass(frozen=True)
class Best:
    """The best of all starts: coordinates (P,), objective, and how many starts reached it."""

    theta_P: Array
    objective: float
    starts: int
    agreeing: int


def fit(
    table: Table | pd.DataFrame,
    law: str | Law = "chinchilla",
    *,
    columns: Mapping[str, str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    kind: bootstrap.Kind | None = None,
    delta: float = DELTA,
    level: float = LEVEL,
    convention: str = "params",
    loss_unit: str = "nats/token",
    pair_by: str | None = None,
    units: Sequence[str] = (),
) -> Fit:
    """Fit a law to a table of runs.

    `columns` maps standard column names to the table's own; `kind` is the form of the bootstrap
    (rows, runs or seeds); a column `weight` weighs the rows; `delta` is Huber's, in units of
    log L (infinity gives least squares); `convention` names what counts as parameters,
    `loss_unit` what the loss is measured in;
    `pair_by` and `units` draw the resamples of several tables together (`bootstrap.draw`). Raises
    `TableError` for a table that is not one, `RefusedError` where there are too few runs.
    """
    law = get(law)
    table = Table.read(table, columns, needs=(*law.columns, law.target))
    _enough(table, law)
    log_target = np.log(table.column(law.target))
    problem = law.problem(table.columns(law.columns), log_target)
    best = optimise(problem, log_target, delta, table.weights)
    drawn = bootstrap.draw(table, resamples, seed, kind, pair_by, units)
    theta_RP = resample(problem, best, log_target, drawn, delta, table.weights)
    free = problem.unidentifiable() or _undetermined(problem, law, best)
    limits, weak = _limits(problem, law, best, theta_RP, level, identifiable=not free)
    rule, rule_notices = ComputeRule(), list[Notice]()
    if {"params", "tokens"} <= set(law.columns):
        rule, rule_notices = compute_rule(table)
    notices: list[Notice] = [*table.notices, *hygiene(table.frame), *rule_notices, *free]
    notices += [*drawn.notices, *_mixed(table)]
    notices += _bound_notices(problem, law, best) if not free else []
    notices += weak if not free else []
    if best.agreeing == 1 and best.starts > 1:
        message = f"only 1 of {best.starts} starts reached the best objective"
        notices.append(StartsDisagree(message))
    return Fit(
        law=law,
        values_P=problem.natural(best.theta_P[None])[0],
        samples_RP=problem.natural(theta_RP),
        limits=limits,
        rule=rule,
        data=summary_of(table, convention, loss_unit),
        diagnostics=_diagnose(problem, table, log_target, best, delta),
        bootstrap=drawn.kind,
        notices=tuple(notices),
        excluded=table.excluded,
        level=level,
    )


def optimise(
    problem: Problem,
    log_target_N: Array,
    delta: float = DELTA,
    weights_N: Array | None = None,
) -> Best:
    """Descend from every start, take the descents up again where they ended, keep the lowest."""
    theta = starts = problem.starts(log_target_N)
    weights_1N = (np.ones(len(log_target_N)) if weights_N is None else weights_N)[None]
    for _ in range(DESCENTS):
        solution = minimise(problem, theta, log_target_N[None], weights_1N, delta)
        theta = solution.theta_RP
    winner = int(solution.objective_R.argmin())
    lowest = float(solution.objective_R[winner])
    near = solution.objective_R <= lowest * (1 + AGREEMENT) + 1e-20
    return Best(solution.theta_RP[winner], lowest, len(starts), int(near.sum()))


def resample(
    problem: Problem,
    best: Best,
    log_target_N: Array,
    drawn: bootstrap.Resamples,
    delta: float = DELTA,
    weights_N: Array | None = None,
) -> Array:
    """Refit every resample (R, P), starting from the best fit."""
    starts = np.repeat(best.theta_P[None], drawn.count, axis=0)
    target_RN = log_target_N + drawn.shifts_RN
    weights_RN = drawn.weights_RN * (1.0 if weights_N is None else weights_N)
    solution = minimise(
        problem, starts, target_RN, weights_RN, delta, tolerance=BOOTSTRAP_TOLERANCE
    )
    return solution.theta_RP


def summary_of(table: Table, convention: str, loss_unit: str) -> DataSummary:
    """Size, fingerprint and ranges of the table."""
    ranges = {
        name: (float(table.column(name).min()), float(table.column(name).max()))
        for name in ("params", "tokens", "loss")
        if table.has(name)
    }
    if table.has("flops") or {"params", "tokens"} <= set(ranges):
        ranges["flops"] = (float(table.flops.min()), float(table.flops.max()))
    return DataSummary(len(table), table.fingerprint, convention, ranges, loss_unit)


def _enough(table: Table, law: Law) -> None:
    needed = len(law.parameters) + 1
    if len(table) < needed:
        message = (
            f"the {law.title} law has {len(law.parameters)} parameters and needs at least "
            f"{needed} different runs; the table has {len(table)}"
        )
        raise RefusedError(TooFewPoints(message, table.rows))


def _mixed(table: Table) -> list[Notice]:
    names = table.frame["architecture"].unique() if table.has("architecture") else ()
    if len(names) < 2:
        return []
    listed = ", ".join(map(str, names))
    return [MixedArchitectures(f"one law was fitted to the runs of {listed} together")]


def _undetermined(problem: Problem, law: Law, best: Best) -> list[NotIdentifiable]:
    """Parameters that could move, at the fit, without moving any prediction."""
    inside = (best.theta_P > problem.low_P) & (best.theta_P < problem.high_P)
    if not inside.any():
        return []
    jacobian = problem.log_predict(best.theta_P[None])[1][0][:, inside]
    norms = np.linalg.norm(jacobian, axis=0)
    scaled = jacobian / np.where(norms > 0, norms, 1.0)
    _, sizes, directions = np.linalg.svd(scaled, full_matrices=False)
    if sizes[-1] > RANK * sizes[0]:
        return []
    step = np.zeros(len(best.theta_P))
    step[inside] = directions[-1] / np.where(norms > 0, norms, 1.0)
    step *= 1e-4 / np.abs(step).max()
    moved, still = problem.natural(np.stack([best.theta_P + step, best.theta_P]))
    change = np.abs(moved / still - 1)
    names = [name for name, c in zip(law.names, change, strict=True) if c > 0.01 * change.max()]
    listed = ", ".join(names)
    return [NotIdentifiable(f"no run of the table tells {listed} of the {law.title} law")]


def _limits(
    problem: Problem, law: Law, best: Best, theta_RP: Array, level: float, identifiable: bool
) -> tuple[dict[str, Estimate], list[Notice]]:
    """Intervals of the parameters; a resample at a bound counts as what the bound stands for."""
    values = problem.natural(best.theta_P[None])[0]
    samples_RP, ends_RP = problem.natural(theta_RP), problem.at_bounds(theta_RP)
    limits: dict[str, Estimate] = {}
    notices: list[Notice] = []
    for p, parameter in enumerate(law.parameters):
        if not identifiable:
            limits[parameter.name] = Estimate(float(values[p]), -np.inf, np.inf)
            continue
        samples = np.where(ends_RP[:, p] < 0, parameter.low, samples_RP[:, p])
        samples = np.where(ends_RP[:, p] > 0, parameter.high, samples)
        limits[parameter.name] = Estimate.of(values[p], samples, level)
        share = float((ends_RP[:, p] != 0).mean()) if len(ends_RP) else 0.0
        if share > (1 - level) / 2:
            message = f"{parameter.name} runs to the end of its range in {share:.0%} of resamples"
            notices.append(WeaklyIdentified(message))
    return limits, notices


def _bound_notices(problem: Problem, law: Law, best: Best) -> list[Notice]:
    ends = problem.at_bounds(best.theta_P[None])[0]
    return [
        ParameterAtBound(f"{parameter.name} is at the {_side(end)} end of its range")
        for parameter, end in zip(law.parameters, ends, strict=True)
        if end
    ]


def _side(end: np.int8) -> str:
    return "lower" if end < 0 else "upper"


def _diagnose(
    problem: Problem, table: Table, log_target_N: Array, best: Best, delta: float
) -> Diagnostics:
    predicted_RN, jacobian_RNP = problem.log_predict(best.theta_P[None])
    residuals, jacobian = log_target_N - predicted_RN[0], jacobian_RNP[0]
    scaled = jacobian / np.maximum(np.linalg.norm(jacobian, axis=0), 1e-300)
    left, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    freedom = max(len(residuals) - len(best.theta_P), 1)
    spread = float(((log_target_N - log_target_N.mean()) ** 2).sum())
    squares = float((residuals**2).sum())
    return Diagnostics(
        objective=best.objective,
        delta=delta,
        residual_sd=float(np.sqrt(squares / freedom)),
        r_squared=1 - squares / spread if spread > 0 else float("nan"),
        condition=float(sizes[0] / sizes[-1]) if sizes[-1] > 0 else np.inf,
        starts=best.starts,
        starts_agreeing=best.agreeing,
        rows=tuple(int(row) for row in table.frame.index),
        residuals=tuple(residuals.tolist()),
        leverage=tuple((left[:, sizes > 1e-12 * sizes[0]] ** 2).sum(axis=1).tolist()),
    )
