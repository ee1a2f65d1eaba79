"""The data-constrained law: what repeated tokens, and parameters beyond the data's, are worth."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from analysis.laws.base import Array, ComputeRule, Law, Parameter, Problem, Values
from analysis.laws.chinchilla import CHINCHILLA
from analysis.laws.posynomial import PosynomialProblem

C4: Mapping[str, float] = {
    "E": float(np.exp(0.6254804)),
    "A": float(np.exp(6.255414)),
    "B": float(np.exp(7.3049974)),
    "alpha": 0.3526596,
    "beta": 0.3526596,
}
"""The paper's Chinchilla law of C4, N in parameters and D in tokens."""

DECAYS = (1.0, 5.0, 20.0, 100.0)
LOG_REPEATS = (float(np.log(0.01)), float(np.log(1e4)))
REPEATS = (
    Parameter("R_D", "epochs", "decay of the value of repeated tokens"),
    Parameter("R_N", "1", "decay of the value of excess parameters"),
)


def saturating(repeats: Array, decay: Array) -> Array:
    """R*·(1 − e^(−R/R*)): what `repeats` are worth in fresh ones (eq. 5)."""
    return np.asarray(decay * -np.expm1(-repeats / decay))


def excess(values: Values, params: Array, unique: Array) -> tuple[Array, Array]:
    """U_N, the parameters that U unique tokens can use, and R_N = N/U_N − 1."""
    alpha, beta = values["alpha"], values["beta"]
    log_g = (np.log(alpha * values["A"]) - np.log(beta * values["B"])) / (alpha + beta)
    # At least one parameter, however odd a trial step of the fit may be.
    log_best = np.clip(log_g + (np.log(unique) + log_g) * beta / alpha, 0.0, 200.0)
    best = np.exp(log_best)
    usable = np.minimum(params, best)
    return usable, params / usable - 1


class DataConstrained(Law):
    """L = E + A/N′^α + B/D′^β with N′ = U_N + U_N·R_N*·(1 − e^(−R_N/R_N*)) and D′ likewise.

    Muennighoff et al. 2023, arXiv 2305.16264, eq. 5–6; R_D = D/U − 1 for U unique tokens. With a
    `base` its Chinchilla parameters are held and R_D*, R_N* alone are fitted, as in the paper.
    """

    equation = "L = E + A/N′^α + B/D′^β, D′ = U + U·R_D*·(1 − e^(−R_D/R_D*)), N′ likewise"
    source = "Muennighoff et al. 2023, Scaling Data-Constrained Language Models, arXiv 2305.16264"
    columns = ("params", "tokens", "unique_tokens")

    def __init__(self, name: str, title: str, base: Mapping[str, float] | None = None) -> None:
        self.name, self.title, self.base = name, title, base
        self.parameters = REPEATS if base else (*CHINCHILLA.parameters, *REPEATS)

    def predict(self, values: Values, columns: Mapping[str, Array]) -> Array:
        """Eq. 6; without the column unique_tokens every token is fresh."""
        held = {name: np.asarray(v) for name, v in (self.base or {}).items()}
        values = {**held, **values}
        params, tokens = np.asarray(columns["params"]), np.asarray(columns["tokens"])
        unique = np.minimum(columns.get("unique_tokens", tokens), tokens)
        usable, idle = excess(values, params, unique)
        size = usable * (1 + saturating(idle, values["R_N"]))
        data = unique * (1 + saturating(tokens / unique - 1, values["R_D"]))
        return CHINCHILLA.predict(values, {"params": size, "tokens": data})

    def problem(self, columns: Mapping[str, Array], log_target_N: Array) -> Problem:
        """The Chinchilla problem in N′ and D′, and two more coordinates."""
        return DataConstrainedProblem(columns, log_target_N, self.base)

    def optimum(self, values: Values, flops: Array | float, rule: ComputeRule) -> Array:
        """The Chinchilla optimum: with unlimited unique tokens nothing is repeated."""
        held = {name: np.asarray(v) for name, v in (self.base or {}).items()}
        return CHINCHILLA.optimum({**held, **values}, flops, rule)


class DataConstrainedProblem(Problem):
    """Coordinates: those of the Chinchilla problem unless held, then log R_D*, log R_N*."""

    def __init__(
        self,
        columns: Mapping[str, Array],
        log_target_N: Array,
        base: Mapping[str, float] | None,
    ) -> None:
        self.params, self.tokens = columns["params"], columns["tokens"]
        self.unique = np.minimum(columns["unique_tokens"], self.tokens)
        self.repeats = self.tokens / self.unique - 1
        self.plain: PosynomialProblem = CHINCHILLA.problem(columns, log_target_N)
        self.base, self.width = base, 0 if base else len(CHINCHILLA.parameters)
        low, high = ([end] * 2 for end in LOG_REPEATS)
        self.low_P = np.array(low if base else [*self.plain.low_P, *low])
        self.high_P = np.array(high if base else [*self.plain.high_P, *high])

    def _values(self, theta_RP: Array) -> dict[str, Array]:
        if self.base:
            found = {name: np.full((len(theta_RP), 1), v) for name, v in self.base.items()}
        else:
            natural = self.plain.natural(theta_RP[:, : self.width])
            found = {name: natural[:, p, None] for p, name in enumerate(CHINCHILLA.names)}
        repeats = np.exp(theta_RP[:, self.width :])
        return found | {"R_D": repeats[:, :1], "R_N": repeats[:, 1:]}

    def log_predict(self, theta_RP: Array) -> tuple[Array, Array]:
        """log L, and its Jacobian by the chain rule through log N′, log D′ and log U_N."""
        v = self._values(theta_RP)
        usable, idle = excess(v, self.params, self.unique)
        fresh_n, fresh_d = saturating(idle, v["R_N"]), saturating(self.repeats, v["R_D"])
        log_n = np.log(usable * (1 + fresh_n))
        log_d = np.log(self.unique * (1 + fresh_d))
        term_n, term_d = v["A"] * np.exp(-v["alpha"] * log_n), v["B"] * np.exp(-v["beta"] * log_d)
        loss = v["E"] + term_n + term_d
        share_n, share_d = term_n / loss, term_d / loss
        worn_n, worn_d = np.exp(-idle / v["R_N"]), np.exp(-self.repeats / v["R_D"])
        by_n = -v["alpha"] * share_n
        by_decay = [
            -v["beta"] * share_d * (fresh_d - self.repeats * worn_d) / (1 + fresh_d),
            by_n * (fresh_n - idle * worn_n) / (1 + fresh_n),
        ]
        if self.base:
            return np.log(loss), np.stack(by_decay, axis=-1)
        # A larger U_N leaves fewer parameters idle; it moves only where N exceeds it.
        by_usable = by_n * np.where(idle > 0, 1 - worn_n * (1 + idle) / (1 + fresh_n), 0.0)
        by_base = self._by_base(v, share_n, share_d, log_n, log_d, by_usable)
        return np.log(loss), np.stack([*by_base, *by_decay], axis=-1)

    def _by_base(
        self, v: Values, share_n: Array, share_d: Array, log_n: Array, log_d: Array, by_u: Array
    ) -> list[Array]:
        """Derivatives by the Chinchilla coordinates: log terms at the centre, then exponents."""
        alpha, beta = v["alpha"], v["beta"]
        total, turn = alpha + beta, 1 + beta / alpha
        log_g = (np.log(alpha * v["A"]) - np.log(beta * v["B"])) / total
        by_a = share_n + by_u * turn / total
        by_b = share_d - by_u * turn / total
        reach = np.log(self.unique) + log_g
        turned_alpha = turn * (1 / alpha - log_g) / total - reach * beta / alpha**2
        turned_beta = turn * (-1 / beta - log_g) / total + reach / alpha
        # At fixed log A; the coordinates hold A/N^α at the centre of the table instead.
        by_alpha = -share_n * log_n + by_u * turned_alpha - self.plain.centre_KQ[1, 0] * by_a
        by_beta = -share_d * log_d + by_u * turned_beta - self.plain.centre_KQ[2, 1] * by_b
        return [1 - share_n - share_d, by_a, by_b, by_alpha, by_beta]

    def starts(self, log_target_N: Array) -> Array:
        """Several decays of either kind, on the best plain fits."""
        decays = np.log(list(product(DECAYS, DECAYS)))
        if self.base:
            return decays
        plain = self.plain.starts(log_target_N)[:3]
        return np.concatenate(
            [np.repeat(plain, len(decays), axis=0), np.tile(decays, (len(plain), 1))], axis=1
        )

    def natural(self, theta_RP: Array) -> Array:
        """The base parameters unless held, R_D*, R_N*."""
        plain = self.plain.natural(theta_RP[:, : self.width]) if self.width else theta_RP[:, :0]
        return np.concatenate([plain, np.exp(theta_RP[:, self.width :])], axis=1)

    def coordinates(self, values_P: Array) -> Array:
        """The inverse of `natural`."""
        plain = self.plain.coordinates(values_P[: self.width]) if self.width else values_P[:0]
        theta = np.concatenate([plain, np.log(values_P[self.width :])])
        return np.asarray(np.clip(theta, self.low_P, self.high_P))

    def at_bounds(self, theta_RP: Array) -> NDArray[np.int8]:
        """A decay at its upper end means that repetition costs nothing that these data show."""
        ends = super().at_bounds(theta_RP)
        if self.width:
            ends[:, : self.width] = self.plain.at_bounds(theta_RP[:, : self.width])
        return ends


def constrained_optimum(
    law: DataConstrained, values: Values, flops: float, unique_tokens: float, rule: ComputeRule
) -> Array:
    """Compute-optimal parameters when only `unique_tokens` are to be had and the rest repeat them.

    By golden section in log N about the unconstrained optimum: with few tokens the best model
    shifts, and past some compute more of it buys nothing.
    """
    free = np.log(law.optimum(values, flops, rule))
    low, high = free - 12.0, free + 12.0
    ratio = (np.sqrt(5.0) - 1) / 2

    def loss(log_params: Array) -> Array:
        params = np.exp(log_params)
        tokens = rule.tokens(flops, params)
        given = {"params": params, "tokens": tokens, "unique_tokens": np.asarray(unique_tokens)}
        return law.predict(values, given)

    for _ in range(80):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        better = loss(left) < loss(right)
        low, high = np.where(better, low, left), np.where(better, right, high)
    return np.asarray(np.exp((low + high) / 2))


DATA_CONSTRAINED = DataConstrained("data-constrained", "data-constrained")
DATA_CONSTRAINED_C4 = DataConstrained(
    "data-constrained-c4", "data-constrained (paper's C4 base)", C4
)
