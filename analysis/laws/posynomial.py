"""Laws that are sums of power terms, L = Σ_k c_k Π_j x_j^(s_j·θ): most of the literature.

In logs each term is linear in (log c, θ), so log L is a log-sum-exp of linear forms: smooth,
with an analytic gradient. Given the exponents, L is linear in the coefficients: variable
projection (Golub & Pereyra 1973) searches the exponents alone for starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from analysis.laws.base import Array, Law, Parameter, Problem, Values
from analysis.notices import NotIdentifiable

LOWEST_SHARE = 1e-4
"""A term under this share of the typical loss everywhere counts as absent."""
HIGHEST_SHARE = 4.0
"""No term exceeds the loss; the slack is for noise, and for the median as the typical loss."""
EXPONENTS = (0.01, 3.0)
"""Exponents outside this range are a flat line or a wall, not a power law."""
GRID_POINTS = 1600
TIED = 0.9999
"""Logs of two variables that correlate more than this are one variable: D = 20 N, say."""
SOBOL_POWER = 12
PROJECTED_ROWS = 400
STARTS = 12

Derive = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class Term:
    """coefficient · Π column^(sign · exponent); `powers` maps an exponent to its columns' signs."""

    coefficient: str
    powers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Posynomial(Law):
    """A law given as its terms. `derive` adds the columns that terms use to those of the table."""

    name: str
    title: str
    equation: str
    source: str
    parameters: tuple[Parameter, ...]
    columns: tuple[str, ...]
    terms: tuple[Term, ...]
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    derive: Derive = dict
    target: str = "loss"

    @property
    def exponents(self) -> tuple[str, ...]:
        """Names of the exponents, in the order of `parameters`."""
        coefficients = {term.coefficient for term in self.terms}
        return tuple(name for name in self.names if name not in coefficients)

    def predict(self, values: Values, columns: Mapping[str, Array]) -> Array:
        """The sum of the terms."""
        columns = self.derive(columns)
        total: Array = np.zeros(())
        for term in self.terms:
            value = np.asarray(values[term.coefficient], dtype=np.float64)
            for exponent, signs in term.powers.items():
                for column, sign in signs.items():
                    value = value * np.asarray(columns[column]) ** (sign * values[exponent])
            total = total + value
        return total

    def problem(self, columns: Mapping[str, Array], log_target_N: Array) -> PosynomialProblem:
        """The terms as linear forms of the centred logs of the columns."""
        columns = self.derive(columns)
        rows = len(log_target_N)
        logs_KNQ = np.zeros((len(self.terms), rows, len(self.exponents)))
        for k, term in enumerate(self.terms):
            for exponent, signs in term.powers.items():
                q = self.exponents.index(exponent)
                logs_KNQ[k, :, q] = sum(
                    sign * np.log(columns[column]) for column, sign in signs.items()
                )
        return PosynomialProblem(self, logs_KNQ, log_target_N)


class PosynomialProblem(Problem):
    """Coordinates: log of each term at the centre of the table over the typical loss; exponents."""

    def __init__(self, law: Posynomial, logs_KNQ: Array, log_target_N: Array) -> None:
        self.law = law
        self.n_terms, _, self.n_exponents = logs_KNQ.shape
        self.centre_KQ = logs_KNQ.mean(axis=1)
        self.logs_KNQ = logs_KNQ - self.centre_KQ[:, None]
        self.scale = float(np.median(log_target_N))
        bounds = [law.bounds.get(name, EXPONENTS) for name in law.exponents]
        low = [np.log(LOWEST_SHARE)] * self.n_terms + [low for low, _ in bounds]
        high = [np.log(HIGHEST_SHARE)] * self.n_terms + [high for _, high in bounds]
        self.low_P, self.high_P = np.array(low), np.array(high)
        order = [term.coefficient for term in law.terms] + list(law.exponents)
        self.order = np.array([order.index(name) for name in law.names])

    def log_predict(self, theta_RP: Array) -> tuple[Array, Array]:
        """log-sum-exp of the terms; its Jacobian is the terms' shares times their logs."""
        coefficients_RK = theta_RP[:, : self.n_terms]
        exponents_RQ = theta_RP[:, self.n_terms :]
        terms_KRN = np.stack(
            [
                coefficients_RK[:, k, None] + exponents_RQ @ self.logs_KNQ[k].T
                for k in range(self.n_terms)
            ]
        )
        peak_RN = terms_KRN.max(axis=0)
        share_KRN = np.exp(terms_KRN - peak_RN)
        total_RN = share_KRN.sum(axis=0)
        share_KRN /= total_RN
        # Rows lie next to each other in memory, as the solver sums over them.
        jacobian_RPN = np.zeros((len(theta_RP), theta_RP.shape[1], total_RN.shape[1]))
        for k in range(self.n_terms):
            jacobian_RPN[:, k] = share_KRN[k]
            for q in range(self.n_exponents):
                if self.logs_KNQ[k, :, q].any():
                    jacobian_RPN[:, self.n_terms + q] += share_KRN[k] * self.logs_KNQ[k, :, q]
        return self.scale + peak_RN + np.log(total_RN), jacobian_RPN.transpose(0, 2, 1)

    def natural(self, theta_RP: Array) -> Array:
        """Coefficients in the table's units, and the exponents."""
        shift_RK = theta_RP[:, self.n_terms :] @ self.centre_KQ.T
        log_RK = theta_RP[:, : self.n_terms] - shift_RK + self.scale
        # A term's own log at the centre, back to its coefficient at 1 of every unit.
        with np.errstate(over="ignore"):
            ordered = np.concatenate([np.exp(log_RK), theta_RP[:, self.n_terms :]], axis=1)
        return ordered[:, self.order]

    def coordinates(self, values_P: Array) -> Array:
        """Centred logs of the terms, and the exponents."""
        ordered = values_P[np.argsort(self.order)]
        exponents = ordered[self.n_terms :]
        with np.errstate(divide="ignore"):
            logs = np.log(ordered[: self.n_terms]) - self.scale + self.centre_KQ @ exponents
        return np.asarray(np.clip(np.concatenate([logs, exponents]), self.low_P, self.high_P))

    def at_bounds(self, theta_RP: Array) -> NDArray[np.int8]:
        """In the order of the law's parameters."""
        return super().at_bounds(theta_RP)[:, self.order]

    def starts(self, log_target_N: Array) -> Array:
        """The best of a grid over the exponents, the coefficients by non-negative least squares."""
        exponents_GQ = self._grid()
        best_GK, cost_G = self._project(exponents_GQ, np.exp(log_target_N - self.scale))
        chosen = _spread(exponents_GQ, cost_G, STARTS)
        floor = np.exp(self.low_P[: self.n_terms]) * 10
        coefficients = np.log(np.maximum(best_GK[chosen], floor))
        theta = np.concatenate([coefficients, exponents_GQ[chosen]], axis=1)
        return np.asarray(np.clip(theta, self.low_P, self.high_P))

    def _grid(self) -> Array:
        low, high = self.low_P[self.n_terms :], self.high_P[self.n_terms :]
        signed = low < 0
        low = np.where(signed, np.arcsinh(low / 0.03), np.log(np.maximum(low, 0.03)))
        high = np.where(signed, np.arcsinh(high / 0.03), np.log(np.minimum(high, 2.0)))
        if self.n_exponents <= 2:
            side = round(GRID_POINTS ** (1 / max(self.n_exponents, 1)))
            axes = [np.linspace(a, b, side) for a, b in zip(low, high, strict=True)]
            even = np.array(list(product(*axes))).reshape(-1, self.n_exponents)
        else:
            unit = qmc.Sobol(self.n_exponents, scramble=False).random_base2(SOBOL_POWER)
            even = low + (high - low) * unit
        return np.asarray(np.where(signed, 0.03 * np.sinh(even), np.exp(even)))

    def _project(self, exponents_GQ: Array, target_N: Array) -> tuple[Array, Array]:
        """Non-negative coefficients (G, K) of least relative error, and the error, per exponents.

        With K terms the non-negative optimum is the best feasible one among the 2^K − 1 supports:
        enumerated, for every grid point at once. Of a long table some hundred rows will do.
        """
        stride = max(len(target_N) // PROJECTED_ROWS, 1)
        target_N = target_N[::stride]
        logs_GNK = np.einsum("gq,knq->gnk", exponents_GQ, self.logs_KNQ[:, ::stride])
        features_GNK = np.exp(logs_GNK) / target_N[None, :, None]
        gram_GKK = features_GNK.transpose(0, 2, 1) @ features_GNK
        right_GK = features_GNK.sum(axis=1)
        best_GK = np.zeros(right_GK.shape)
        cost_G = np.full(len(exponents_GQ), float(len(target_N)))
        for size in range(1, self.n_terms + 1):
            for support in combinations(range(self.n_terms), size):
                index = np.array(support)
                gram = gram_GKK[:, index[:, None], index]
                gram = gram + 1e-13 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(size)
                right = right_GK[:, index]
                solution = np.linalg.solve(gram, right[:, :, None])[:, :, 0]
                cost = len(target_N) - (solution * right).sum(axis=1)
                better = (solution > 0).all(axis=1) & (cost < cost_G)
                cost_G[better] = cost[better]
                best_GK[better] = 0
                best_GK[np.ix_(np.flatnonzero(better), index)] = solution[better]
        return best_GK, cost_G

    def unidentifiable(self) -> list[NotIdentifiable]:
        """Parameters that no losses at these rows could tell apart."""
        notices = []
        for q, name in enumerate(self.law.exponents):
            levels = {len(np.unique(np.round(self.logs_KNQ[k, :, q], 9))) for k in self._uses(q)}
            if max(levels, default=1) < 3:
                notices.append(
                    NotIdentifiable(
                        f"{name} is not identifiable: its variable takes fewer than 3 values"
                    )
                )
        return notices + self._collinear()

    def _uses(self, q: int) -> list[int]:
        exponent = self.law.exponents[q]
        return [k for k, term in enumerate(self.law.terms) if exponent in term.powers]

    def _collinear(self) -> list[NotIdentifiable]:
        found = []
        for left, right in combinations(range(self.n_terms), 2):
            x_N, y_N = (self.logs_KNQ[k].sum(axis=1) for k in (left, right))
            both = float(np.linalg.norm(x_N) * np.linalg.norm(y_N))
            if both > 0 and abs(float(x_N @ y_N)) > TIED * both:
                names = " and ".join(self.law.terms[k].coefficient for k in (left, right))
                found.append(
                    NotIdentifiable(
                        f"the terms of {names} are not identifiable: "
                        "their variables are tied to each other in every row"
                    )
                )
        return found


def _spread(points_GQ: Array, cost_G: Array, count: int) -> NDArray[np.intp]:
    """The `count` cheapest points that are not close neighbours of a cheaper one."""
    logs = np.arcsinh(points_GQ / 0.03)
    chosen: list[int] = []
    for g in np.argsort(cost_G, kind="stable"):
        gaps = [np.abs(logs[g] - logs[c]).max(initial=0.0) for c in chosen]
        if not gaps or min(gaps) > 0.25:
            chosen.append(int(g))
        if len(chosen) == count:
            break
    return np.array(chosen, dtype=np.intp)
