"""The law of routed language models: loss by dense size and number of experts, at fixed data."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from analysis.laws.base import Array, Law, Parameter, Problem, Values

LOG10 = float(np.log(10.0))


def effective_experts(experts: Array, start: Array, most: Array) -> Array:
    """Ê with 1/Ê = 1/(E − 1 + (1/E_start − 1/E_max)^−1) + 1/E_max (eq. 6)."""
    return np.asarray(1 / (1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most))


class Routed(Law):
    """log₁₀ L = a·log₁₀N + b·log₁₀Ê + c·log₁₀N·log₁₀Ê + d.

    Clark et al. 2022, arXiv 2202.01169, eq. 7. N is the size of the dense model, E the number of
    experts; Ê saturates from E_start at one expert towards E_max.
    """

    name = "routed"
    title = "routed"
    equation = "log₁₀L = a·log₁₀N + b·log₁₀Ê + c·log₁₀N·log₁₀Ê + d"
    source = "Clark et al. 2022, Unified Scaling Laws for Routed Language Models, arXiv 2202.01169"
    parameters = (
        Parameter("a", "1", "exponent of dense size", low=-np.inf),
        Parameter("b", "1", "exponent of experts", low=-np.inf),
        Parameter("c", "1", "their interaction", low=-np.inf),
        Parameter("d", "log₁₀ nats/token", "level", low=-np.inf),
        Parameter("E_start", "experts", "effective experts of one", low=1.0),
        Parameter("E_max", "experts", "effective experts of infinitely many", low=1.0),
    )
    columns = ("params", "experts")

    def predict(self, values: Values, columns: Mapping[str, Array]) -> Array:
        """Eq. 7."""
        size = np.log10(columns["params"])
        experts = np.log10(
            effective_experts(np.asarray(columns["experts"]), values["E_start"], values["E_max"])
        )
        level = values["a"] * size + values["b"] * experts + values["d"]
        return np.asarray(10 ** (level + values["c"] * size * experts))

    def problem(self, columns: Mapping[str, Array], log_target_N: Array) -> Problem:
        """Linear in a, b, c, d given Ê."""
        return RoutedProblem(columns["params"], columns["experts"], log_target_N)


class RoutedProblem(Problem):
    """Coordinates: a, b, c, d about the centre of the table; log (E_start − 1), log E_max/E_start.

    Natural logs throughout, so that c is c/ln 10 here.
    """

    def __init__(self, params_N: Array, experts_N: Array, log_target_N: Array) -> None:
        logs = np.log(params_N)
        self.centre = np.array([logs.mean(), np.log(experts_N).mean()])
        self.size_N, self.experts_N = logs - self.centre[0], experts_N
        self.target_N = log_target_N
        self.scale = float(np.median(log_target_N))
        self.low_P = np.array([-2.0, -2.0, -1.0, -5.0, np.log(1e-3), np.log(2.0)])
        self.high_P = np.array([2.0, 2.0, 1.0, 5.0, np.log(50.0), np.log(1e5)])

    def _experts(self, theta_RP: Array) -> tuple[Array, Array, Array]:
        """log Ê about its centre (R, N), and its derivatives by the last two coordinates."""
        over = np.exp(theta_RP[:, 4, None])
        start, ratio = 1 + over, np.exp(theta_RP[:, 5, None])
        most = start * ratio
        # (1/start − 1/most)^−1 = start · ratio/(ratio − 1)
        offset = start * ratio / (ratio - 1)
        many = self.experts_N - 1 + offset
        effective = 1 / (1 / many + 1 / most)
        by_many, by_most = effective / many**2, effective / most**2
        by_start = over * (by_many * ratio / (ratio - 1) + by_most * ratio)
        by_ratio = ratio * (by_most * start - by_many * start / (ratio - 1) ** 2)
        return np.log(effective) - self.centre[1], by_start, by_ratio

    def log_predict(self, theta_RP: Array) -> tuple[Array, Array]:
        """Bilinear in log N and log Ê."""
        x_RN, by_start, by_ratio = self._experts(theta_RP)
        a, b, c, d = (theta_RP[:, p, None] for p in range(4))
        size = self.size_N
        slope = b + c * size
        columns = [size + 0 * x_RN, x_RN, size * x_RN, np.ones_like(x_RN)]
        columns += [slope * by_start, slope * by_ratio]
        level = self.scale + a * size + b * x_RN + c * size * x_RN + d
        return level, np.stack(columns, axis=-1)

    def starts(self, log_target_N: Array) -> Array:
        """A grid over the saturation, the rest by least squares."""
        grid = np.array(list(product(np.log([0.1, 0.8, 3.0, 10.0]), np.log([20.0, 100.0, 1000.0]))))
        theta = np.concatenate([np.zeros((len(grid), 4)), grid], axis=1)
        _, jacobian = self.log_predict(theta)
        for r, features in enumerate(jacobian[:, :, :4]):
            theta[r, :4] = np.linalg.lstsq(features, log_target_N - self.scale, rcond=None)[0]
        return np.asarray(np.clip(theta, self.low_P, self.high_P))

    def natural(self, theta_RP: Array) -> Array:
        """a, b, c, d, E_start, E_max of eq. 7."""
        a, b, c, d = theta_RP[:, :4].T
        size, experts = self.centre
        start = 1 + np.exp(theta_RP[:, 4])
        level = d + self.scale - a * size - b * experts + c * size * experts
        return np.stack(
            [
                a - c * experts,
                b - c * size,
                c * LOG10,
                level / LOG10,
                start,
                start * np.exp(theta_RP[:, 5]),
            ],
            axis=1,
        )

    def coordinates(self, values_P: Array) -> Array:
        """The inverse of `natural`."""
        a, b, c, d, start, most = values_P
        size, experts = self.centre
        c = c / LOG10
        a, b = a + c * experts, b + c * size
        level = d * LOG10 - self.scale + a * size + b * experts - c * size * experts
        theta = np.array([a, b, c, level, np.log(start - 1), np.log(most / start)])
        return np.asarray(np.clip(theta, self.low_P, self.high_P))


ROUTED = Routed()
