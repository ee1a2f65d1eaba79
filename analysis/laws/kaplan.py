"""The Kaplan law: parameters and tokens bottleneck each other, and nothing is irreducible."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from analysis.laws.base import Array, ComputeRule, Law, Parameter, Problem, Values
from analysis.laws.posynomial import TIED
from analysis.notices import NotIdentifiable

BOUNDS = (0.005, 2.0)
STARTS = (0.04, 0.08, 0.16, 0.32, 0.64)


class Kaplan(Law):
    """L = [(N_c/N)^(α_N/α_D) + D_c/D]^α_D (Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5).

    N counts parameters without embeddings in the paper.
    """

    name = "kaplan"
    title = "Kaplan"
    equation = "L = [(N_c/N)^(α_N/α_D) + D_c/D]^α_D"
    source = "Kaplan et al. 2020, Scaling Laws for Neural Language Models, arXiv 2001.08361"
    parameters = (
        Parameter("N_c", "params", "size at which parameters alone give 1 nat"),
        Parameter("D_c", "tokens", "tokens at which data alone give 1 nat"),
        Parameter("alpha_N", "1", "exponent of parameters"),
        Parameter("alpha_D", "1", "exponent of tokens"),
    )
    columns = ("params", "tokens")

    def predict(self, values: Values, columns: Mapping[str, Array]) -> Array:
        """Eq. 1.5."""
        size = (values["N_c"] / columns["params"]) ** (values["alpha_N"] / values["alpha_D"])
        return np.asarray((size + values["D_c"] / columns["tokens"]) ** values["alpha_D"])

    def problem(self, columns: Mapping[str, Array], log_target_N: Array) -> Problem:
        """In the logs of both columns."""
        return KaplanProblem(np.log(columns["params"]), np.log(columns["tokens"]), log_target_N)

    def optimum(self, values: Values, flops: Array | float, rule: ComputeRule) -> Array:
        """With u = α_N/α_D: N*^(u+γ) = u N_c^u C / (γ κ D_c)."""
        u = values["alpha_N"] / values["alpha_D"]
        log_params = np.log(u) + u * np.log(values["N_c"]) + np.log(flops)
        log_params = log_params - np.log(rule.gamma * rule.kappa * values["D_c"])
        return np.asarray(np.exp(log_params / (u + rule.gamma)))

    def derived(self, values: Values, rule: ComputeRule) -> dict[str, Array]:
        """N* ∝ C^a, D* ∝ C^b."""
        a = 1 / (values["alpha_N"] / values["alpha_D"] + rule.gamma)
        return {"a": a, "b": 1 - rule.gamma * a}


class KaplanProblem(Problem):
    """Coordinates: log loss of either bottleneck alone at the centre of the table; exponents."""

    def __init__(self, log_params_N: Array, log_tokens_N: Array, log_target_N: Array) -> None:
        self.centre = np.array([log_params_N.mean(), log_tokens_N.mean()])
        self.logs_2N = np.stack([log_params_N, log_tokens_N]) - self.centre[:, None]
        self.scale = float(np.median(log_target_N))
        self.low_P = np.array([-30.0, -30.0, BOUNDS[0], BOUNDS[0]])
        self.high_P = np.array([3.0, 3.0, BOUNDS[1], BOUNDS[1]])

    def log_predict(self, theta_RP: Array) -> tuple[Array, Array]:
        """α_D · log-sum-exp of both bottlenecks' logs over α_D."""
        alone_2RN = (
            theta_RP[:, :2].T[:, :, None] - theta_RP[:, 2:].T[:, :, None] * self.logs_2N[:, None]
        )
        power_R1 = theta_RP[:, 3:]
        scaled = alone_2RN / power_R1
        log_sum = np.logaddexp(scaled[0], scaled[1])
        share = np.exp(scaled - log_sum)
        by_power = log_sum - (share * scaled).sum(axis=0) - share[1] * self.logs_2N[1]
        jacobian = np.stack([share[0], share[1], -share[0] * self.logs_2N[0], by_power], axis=-1)
        return self.scale + power_R1 * log_sum, jacobian

    def starts(self, log_target_N: Array) -> Array:
        """A grid over the exponents, both bottlenecks equal at the centre."""
        exponents = np.array(list(product(STARTS, STARTS)))
        half = -exponents[:, 1:] * np.log(2.0)
        return np.concatenate([half, half, exponents], axis=1)

    def unidentifiable(self) -> list[NotIdentifiable]:
        """With one size, one duration, or both tied, the two bottlenecks cannot be told apart."""
        sizes, durations = (len(np.unique(np.round(logs, 9))) for logs in self.logs_2N)
        tied = sizes > 1 and durations > 1 and abs(np.corrcoef(self.logs_2N)[0, 1]) > TIED
        if sizes > 2 and durations > 2 and not tied:
            return []
        why = (
            "parameters and tokens are tied in every row" if tied else "too few sizes or durations"
        )
        return [NotIdentifiable(f"the bottlenecks of size and data cannot be told apart: {why}")]

    def natural(self, theta_RP: Array) -> Array:
        """N_c, D_c, α_N, α_D."""
        logs = (theta_RP[:, :2] + self.scale) / theta_RP[:, 2:] + self.centre
        with np.errstate(over="ignore"):
            return np.concatenate([np.exp(logs), theta_RP[:, 2:]], axis=1)

    def coordinates(self, values_P: Array) -> Array:
        """The inverse of `natural`."""
        alone = (np.log(values_P[:2]) - self.centre) * values_P[2:] - self.scale
        return np.asarray(np.clip(np.concatenate([alone, values_P[2:]]), self.low_P, self.high_P))


KAPLAN = Kaplan()
