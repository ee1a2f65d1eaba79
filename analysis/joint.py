"""Architectures fitted together, sharing what they may share, and a test of whether they may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.estimate import LEVEL, Estimate, finite
from analysis.laws.base import Array, Law, Problem
from analysis.laws.posynomial import Posynomial
from analysis.laws.registry import get
from analysis.notices import AnalysisError
from analysis.parametric import Best, optimise
from analysis.result import interval
from analysis.robust import DELTA, minimise
from analysis.table import Table


@dataclass(frozen=True)
class JointFit:
    """Laws of several architectures with `shared` parameters in common.

    `p_value` is the share of tables redrawn under the sharing hypothesis on which separate fits
    gain as much as they do here: small, and the architectures do not share them.
    """

    shared: tuple[str, ...]
    parameters: dict[str, dict[str, Estimate]]
    objective: float
    separate_objective: float
    p_value: float
    resamples: int

    @property
    def tenable(self) -> bool:
        """Whether the data leave the hypothesis standing, at the 5 % level."""
        return self.p_value >= 0.05

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "shared": list(self.shared),
            "parameters": {
                architecture: {
                    name: {"value": finite(e.value), "interval": interval(e)}
                    for name, e in estimates.items()
                }
                for architecture, estimates in self.parameters.items()
            },
            "objective": self.objective,
            "separate_objective": self.separate_objective,
            "p_value": self.p_value,
            "resamples": self.resamples,
        }


def joint_fit(
    table: Table | pd.DataFrame,
    shared: Sequence[str],
    law: str | Law = "chinchilla",
    *,
    resamples: int = 500,
    seed: int = 0,
    delta: float = DELTA,
    level: float = LEVEL,
) -> JointFit:
    """Fit every architecture of the table with the `shared` parameters in common, and test it.

    The test redraws losses from the joint fit and its residuals, each architecture's its own, and
    compares the gain of separate fits: no asymptotics. A column `weight` weighs the rows. Raises
    `AnalysisError` for a parameter that has no meaning of its own, such as A apart from α, and for
    several rows of one run, whose noise is not each row's own.
    """
    law = get(law)
    table = Table.read(table, needs=(*law.columns, law.target, "architecture"))
    _require_independent(table)
    group_names, group_N = np.unique(table.labels("architecture"), return_inverse=True)
    log_target = np.log(table.column(law.target))
    whole = law.problem(table.columns(law.columns), log_target)
    shared_P = _shared(law, shared)
    joint = _GroupedProblem(whole, group_N, shared_P)
    apart = _GroupedProblem(whole, group_N, np.zeros_like(shared_P))
    weights = table.weights
    separate = optimise(apart, log_target, delta, weights)
    together = _from_separate(joint, separate, apart, log_target, weights, delta)
    fitted = joint.log_predict(together.theta_P[None])[0][0]
    rng = np.random.default_rng(seed)
    residuals = _residuals(joint, log_target - fitted)
    drawn = _redraw(fitted, residuals, weights, group_N, resamples, rng)
    theta_joint, gains = _refit(joint, apart, together, drawn, weights, delta)
    gain = together.objective - separate.objective
    natural = joint.natural_by_group(np.concatenate([together.theta_P[None], theta_joint]))
    parameters = {
        str(group): {
            parameter.name: Estimate.of(natural[g][0, p], natural[g][1:, p], level)
            for p, parameter in enumerate(law.parameters)
        }
        for g, group in enumerate(group_names)
    }
    return JointFit(
        shared=tuple(shared),
        parameters=parameters,
        objective=together.objective,
        separate_objective=separate.objective,
        p_value=float((1 + (gains >= gain).sum()) / (1 + len(gains))),
        resamples=resamples,
    )


def _require_independent(table: Table) -> None:
    if not table.has("run"):
        return
    repeated = table.frame["run"].notna() & table.frame.duplicated(["architecture", "run"])
    if repeated.any():
        named = ", ".join(sorted(set(table.labels("run")[repeated.to_numpy()]))[:5])
        raise AnalysisError(
            f"a joint fit takes one row of a run, and the table has several of {named}"
        )


def _shared(law: Law, shared: Sequence[str]) -> NDArray[np.bool_]:
    """Which coordinates are shared: a parameter must be a coordinate of its own."""
    if not isinstance(law, Posynomial):
        raise AnalysisError(f"the {law.title} law cannot be fitted jointly")
    alone = [term.coefficient for term in law.terms if not term.powers]
    allowed = (*alone, *law.exponents)
    for name in shared:
        if name not in allowed:
            raise AnalysisError(
                f"{name!r} cannot be shared; of the {law.title} law these can: {', '.join(allowed)}"
            )
    order = [*(term.coefficient for term in law.terms), *law.exponents]
    return np.array([name in shared for name in order])


class _GroupedProblem(Problem):
    """One law per group of rows; shared coordinates first, then each group's own in turn."""

    def __init__(
        self, whole: Problem, group_N: NDArray[np.intp], shared_P: NDArray[np.bool_]
    ) -> None:
        self.whole, self.group_N = whole, group_N
        groups, width = int(group_N.max()) + 1, len(shared_P)
        first = int(shared_P.sum())
        own = width - first
        self.index_GP = np.zeros((groups, width), dtype=np.intp)
        for g in range(groups):
            self.index_GP[g, shared_P] = np.arange(first)
            self.index_GP[g, ~shared_P] = first + g * own + np.arange(own)
        size = first + groups * own
        self.low_P, self.high_P = np.zeros(size), np.zeros(size)
        for index in self.index_GP:
            self.low_P[index], self.high_P[index] = whole.low_P, whole.high_P

    def log_predict(self, theta_RP: Array) -> tuple[Array, Array]:
        """Each group's prediction in its own rows, and a Jacobian that is zero elsewhere."""
        predicted = np.zeros((len(theta_RP), len(self.group_N)))
        jacobian = np.zeros((*predicted.shape, theta_RP.shape[1]))
        for g, index in enumerate(self.index_GP):
            rows = self.group_N == g
            log_loss, slope = self.whole.log_predict(theta_RP[:, index])
            predicted[:, rows] = log_loss[:, rows]
            jacobian[:, np.flatnonzero(rows)[:, None], index] = slope[:, rows]
        return predicted, jacobian

    def starts(self, log_target_N: Array) -> Array:
        """The starts of the whole table, for every group alike."""
        of_whole = self.whole.starts(log_target_N)
        theta = np.zeros((len(of_whole), len(self.low_P)))
        for index in self.index_GP:
            theta[:, index] = of_whole
        return theta

    def natural(self, theta_RP: Array) -> Array:
        """All groups' parameters in turn."""
        return np.concatenate(self.natural_by_group(theta_RP), axis=1)

    def natural_by_group(self, theta_RP: Array) -> list[Array]:
        """The law's parameters of each group."""
        return [self.whole.natural(theta_RP[:, index]) for index in self.index_GP]

    def coordinates(self, values_P: Array) -> Array:
        """The inverse of `natural`."""
        theta = np.zeros(len(self.low_P))
        parts = np.split(values_P, len(self.index_GP))
        for index, values in zip(self.index_GP, parts, strict=True):
            theta[index] = self.whole.coordinates(values)
        return theta


def _from_separate(
    joint: _GroupedProblem,
    separate: Best,
    apart: _GroupedProblem,
    log_target_N: Array,
    weights_N: Array,
    delta: float,
) -> Best:
    """The joint optimum, from its own starts and from each group's separate one."""
    own = optimise(joint, log_target_N, delta, weights_N)
    starts = np.zeros((len(joint.index_GP), len(joint.low_P)))
    for leader in range(len(joint.index_GP)):
        order = [g for g in range(len(joint.index_GP)) if g != leader] + [leader]
        for g in order:
            starts[leader, joint.index_GP[g]] = separate.theta_P[apart.index_GP[g]]
    solution = minimise(joint, starts, log_target_N[None], weights_N[None], delta)
    winner = int(solution.objective_R.argmin())
    if solution.objective_R[winner] >= own.objective:
        return own
    return Best(solution.theta_RP[winner], float(solution.objective_R[winner]), len(starts), 1)


def _residuals(joint: _GroupedProblem, raw_N: Array) -> Array:
    """As large as the errors: a group of n rows with p parameters, those that it shares counted by
    its share of the rows, has residuals √((n - p)/n) times those."""
    result = raw_N.copy()
    size_P = np.zeros(len(joint.low_P))
    for g, index in enumerate(joint.index_GP):
        size_P[index] += (joint.group_N == g).sum()
    for g, index in enumerate(joint.index_GP):
        rows = joint.group_N == g
        n = int(rows.sum())
        freedom = max(n - float((n / size_P[index]).sum()), 1.0)
        result[rows] *= np.sqrt(n / freedom)
    return result


def _redraw(
    fitted_N: Array,
    residuals: Array,
    weights_N: Array,
    group_N: NDArray[np.intp],
    resamples: int,
    rng: np.random.Generator,
) -> Array:
    """Tables (R, N) as the joint fit would have them, with each group's residuals, those of a row
    of weight w being 1/√w of one of weight 1."""
    drawn = np.tile(fitted_N, (resamples, 1))
    for g in range(int(group_N.max()) + 1):
        rows = group_N == g
        root = np.sqrt(weights_N[rows])
        pool = residuals[rows] * root
        pool -= pool.mean()
        drawn[:, rows] += rng.choice(pool, size=(resamples, int(rows.sum()))) / root
    return drawn


def _refit(
    joint: _GroupedProblem,
    apart: _GroupedProblem,
    together: Best,
    drawn_RN: Array,
    weights_N: Array,
    delta: float,
) -> tuple[Array, Array]:
    """Joint fits of the redrawn tables, and what separate fits gain on each."""
    weights_1N, count = weights_N[None], len(drawn_RN)
    start = np.repeat(together.theta_P[None], count, 0)
    first = minimise(joint, start, drawn_RN, weights_1N, delta, 1e-7)
    # The separate fits start where the joint ones ended, so that the gain is never negative.
    start = np.zeros((count, len(apart.low_P)))
    for own, common in zip(apart.index_GP, joint.index_GP, strict=True):
        start[:, own] = first.theta_RP[:, common]
    second = minimise(apart, start, drawn_RN, weights_1N, delta, 1e-7)
    return first.theta_RP, first.objective_R - second.objective_R
