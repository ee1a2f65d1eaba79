"""Which runs to do next: the Fisher information of a design, and what the best one costs.

A run at (N, D) tells a law's parameters through the gradient j of log L there: Σ j jᵀ/σ² is the
information of a design, and gᵀ M⁻¹ g the variance of a target with gradient g (delta method;
Atkinson, Donev & Tobias 2007, Optimum Experimental Designs, §10). Targets are log N*, log D* or
log L* at a budget far above what the runs may cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.optimize import linprog

from analysis.laws.base import Array, ComputeRule, Law, Problem
from analysis.notices import AnalysisError
from analysis.result import Fit
from analysis.table import Table

Target = Literal["params", "tokens", "loss"]
RIDGE = 1e-9
MOST_REPLICATES = 4
"""Runs of one size and duration that a plan may hold, under different seeds."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Runs in the order of their worth, and the standard deviation of the log target.

    `before` is that of the runs there are (infinite where there are none), `after` that with the
    plan, `steps` that after each run.
    """

    runs: pd.DataFrame
    target: Target
    flops: float
    before: float
    after: float
    steps: tuple[float, ...]

    @property
    def cost(self) -> float:
        """Training FLOPs of the whole plan."""
        return float(self.runs["flops"].sum())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "runs": self.runs.to_dict(orient="records"),
            "target": self.target,
            "flops": self.flops,
            "before": self.before,
            "after": self.after,
            "steps": list(self.steps),
            "cost": self.cost,
        }


def candidates(
    low: float, high: float, budgets: int, sizes: int, spread: float, law: Fit
) -> pd.DataFrame:
    """Runs to choose from: `sizes` a budget within ±`spread`× of the optimum of a fitted law."""
    flops = np.repeat(np.geomspace(low, high, budgets), sizes)
    factors = np.tile(np.geomspace(1 / spread, spread, sizes), budgets)
    params = law.law.optimum(law.values, flops, law.rule) * factors
    return pd.DataFrame(
        {"params": params, "tokens": law.rule.tokens(flops, params), "flops": flops}
    )


def next_runs(
    fitted: Fit,
    table: Table | pd.DataFrame,
    choices: pd.DataFrame,
    *,
    flops: float,
    target: Target = "params",
    budget: float = np.inf,
    until: float = 0.0,
) -> Plan:
    """The runs among `choices` that lower the variance of the target most per FLOP, in turn.

    `table` holds the runs there are. Ends when the next run would cost more than is left of
    `budget`, or once the standard deviation of the log target at `flops` is `until`.
    """
    if target not in ("params", "tokens", "loss"):
        raise AnalysisError(f"a plan's target is params, tokens or loss, not {target!r}")
    done = Table.read(table)
    system = System(fitted, pd.concat([done.frame, choices], ignore_index=True), flops, target)
    have, new = system.rows[: len(done)], system.rows[len(done) :]
    cost = choices["flops"].to_numpy(np.float64)
    ridge = RIDGE * np.trace(system.rows.T @ system.rows) * np.eye(have.shape[1])
    inverse = np.linalg.inv(have.T @ have + ridge)
    before = float(np.sqrt(system.gradient @ inverse @ system.gradient))
    chosen, steps = _greedy(inverse, system.gradient, new, cost, budget, until)
    runs = choices.iloc[chosen].reset_index(drop=True)
    return Plan(runs, target, flops, before, [before, *steps][-1], tuple(steps))


def _greedy(
    inverse: Array, gradient: Array, rows: Array, cost: Array, budget: float, until: float
) -> tuple[list[int], list[float]]:
    """Runs by fall of variance per FLOP, each a rank-one update, and the spread after each."""
    chosen: list[int] = []
    steps: list[float] = []
    counts = np.zeros(len(rows), dtype=np.intp)
    now = float(np.sqrt(gradient @ inverse @ gradient))
    while now > until:
        reach = rows @ inverse
        fall = (reach @ gradient) ** 2 / (1 + np.einsum("np,np->n", reach, rows))
        able = (cost <= budget) & (counts < MOST_REPLICATES)
        if not able.any():
            break
        best = int(np.argmax(np.where(able, fall / cost, -1.0)))
        step = reach[best]
        inverse = inverse - np.outer(step, step) / (1 + float(step @ rows[best]))
        now = float(np.sqrt(max(float(gradient @ inverse @ gradient), 0.0)))
        counts[best] += 1
        budget -= float(cost[best])
        chosen.append(best)
        steps.append(now)
    return chosen, steps


def least_cost(
    fitted: Fit, choices: pd.DataFrame, *, flops: float, target: Target, sd: float
) -> tuple[float, Array]:
    """The least FLOPs at which any design over `choices` reaches `sd`, and its runs (fractional).

    Elfving's theorem (1952) with costs: minimise Σ |u_i|·√cost_i with Σ u_i j_i = g, a linear
    program; run i is done |u_i|/√cost_i times, up to scale. At most as many runs differ as the
    law has parameters, so this design cannot test the law: it is a bound, not a plan.
    """
    system = System(fitted, choices, flops, target)
    root = np.sqrt(choices["flops"].to_numpy(np.float64))
    unit = root / root.max()
    scale = np.linalg.norm(system.rows, axis=0)
    constraint = np.concatenate([system.rows, -system.rows]).T / scale[:, None]
    solution = linprog(np.concatenate([unit, unit]), A_eq=constraint, b_eq=system.gradient / scale)
    if solution.x is None:
        raise AnalysisError("no design over these runs determines the target")
    parts = solution.x[: len(choices)] + solution.x[len(choices) :]
    total = float(parts @ root)
    return total**2 / sd**2, parts / root * total / sd**2


class System:
    """Gradients of log L over σ at rows (N, P), and that of the log target (P,), by coordinates."""

    def __init__(
        self,
        fitted: Fit,
        frame: pd.DataFrame,
        flops: float,
        target: Target,
        noise: float | None = None,
    ) -> None:
        columns = {name: frame[name].to_numpy(np.float64) for name in fitted.law.columns}
        log_loss = np.log(fitted.law.predict(fitted.values, columns))
        problem = fitted.law.problem(columns, log_loss)
        theta = problem.coordinates(fitted.values_P)
        sigma = noise or max(fitted.diagnostics.residual_sd, 1e-6)
        self.rows = problem.log_predict(theta[None])[1][0] / sigma
        self.gradient = _gradient(fitted.law, problem, theta, fitted.rule, flops, target)

    def sd(self, rows: Array) -> float:
        """Standard deviation of the log target from these rows alone."""
        return float(np.sqrt(self.gradient @ np.linalg.solve(rows.T @ rows, self.gradient)))


def _gradient(
    law: Law, problem: Problem, theta: Array, rule: ComputeRule, flops: float, target: Target
) -> Array:
    """d log target / dθ by central differences: the target is a closed form of the parameters."""
    steps = 1e-5 * np.eye(len(theta))
    up, down = (
        np.log(target_of(law, problem.natural(theta + sign * steps), rule, flops, target))
        for sign in (1, -1)
    )
    return np.asarray((up - down) / 2e-5)


def target_of(
    law: Law, natural_RP: Array, rule: ComputeRule, flops: float, target: Target
) -> Array:
    """The target at `flops` for parameters (R, P) in the order of the law."""
    values = {name: natural_RP[:, p] for p, name in enumerate(law.names)}
    params = law.optimum(values, flops, rule)
    tokens = rule.tokens(flops, params)
    loss = law.predict(values, {"params": params, "tokens": tokens})
    return {"params": params, "tokens": tokens, "loss": loss}[target]
