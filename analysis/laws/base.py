"""What a law is, and what an estimator needs of one.

A *law* is stateless: names, units, source, `predict`. Given a table's columns it states a
*problem*: coordinates θ in which the fit is well scaled and free of units, log L and its
Jacobian at any number of θ at once, starts, and the way back to the law's own parameters.

Array shapes: R sets of parameters (starts or resamples), N rows, P coordinates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from analysis.notices import AnalysisError, NotIdentifiable

Array = NDArray[np.float64]
Values = Mapping[str, Array]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a law: its name, its unit, and what it means.

    `low` and `high` are the values that the ends of its range stand for.
    """

    name: str
    unit: str
    meaning: str
    low: float = 0.0
    high: float = np.inf


@dataclass(frozen=True)
class ComputeRule:
    """Training FLOPs of a token as a power of the parameter count: C = kappa · N^gamma · D."""

    kappa: float = 6.0
    gamma: float = 1.0

    def tokens(self, flops: Array | float, params: Array) -> Array:
        """Tokens that `flops` pay for at `params` parameters."""
        with np.errstate(over="ignore", divide="ignore"):
            return np.asarray(flops / (self.kappa * params**self.gamma))

    def flops(self, params: Array, tokens: Array) -> Array:
        """Training FLOPs of a run."""
        return np.asarray(self.kappa * params**self.gamma * tokens)


class Problem(ABC):
    """A law on one table, in coordinates of its own; `low_P` and `high_P` bound them."""

    low_P: Array
    high_P: Array

    @abstractmethod
    def log_predict(self, theta_RP: Array) -> tuple[Array, Array]:
        """log of the predicted target (R, N) and its Jacobian (R, N, P)."""

    @abstractmethod
    def starts(self, log_target_N: Array) -> Array:
        """Starts (R, P), good ones first."""

    @abstractmethod
    def natural(self, theta_RP: Array) -> Array:
        """The law's own parameters (R, number of parameters)."""

    @abstractmethod
    def coordinates(self, values_P: Array) -> Array:
        """θ of the law's own parameters: the inverse of `natural` for one set (P,)."""

    def at_bounds(self, theta_RP: Array) -> NDArray[np.int8]:
        """For each of the law's own parameters −1 at its lower bound, +1 at its upper, else 0.

        Here for laws whose parameters stand in the order of their coordinates.
        """
        near_P = 1e-6 * (self.high_P - self.low_P)
        ends = (theta_RP >= self.high_P - near_P).astype(np.int8)
        ends -= (theta_RP <= self.low_P + near_P).astype(np.int8)
        return ends

    def unidentifiable(self) -> list[NotIdentifiable]:
        """What the design leaves free, whatever the losses are."""
        return []


class Law(ABC):
    """A scaling law; one instance each, listed in `analysis.laws.registry`."""

    name: str
    title: str
    equation: str
    source: str
    parameters: tuple[Parameter, ...]
    columns: tuple[str, ...]
    target: str = "loss"
    version: ClassVar[int] = 1

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names in the order of every array of parameters."""
        return tuple(parameter.name for parameter in self.parameters)

    @abstractmethod
    def predict(self, values: Values, columns: Mapping[str, Array]) -> Array:
        """The target at the given parameters; values and columns broadcast against each other."""

    @abstractmethod
    def problem(self, columns: Mapping[str, Array], log_target_N: Array) -> Problem:
        """This law on a table."""

    def optimum(self, values: Values, flops: Array | float, rule: ComputeRule) -> Array:
        """Compute-optimal parameters at `flops`; raises `AnalysisError` where there is none."""
        raise AnalysisError(f"the {self.title} law has no compute-optimal allocation")

    def derived(self, values: Values, rule: ComputeRule) -> dict[str, Array]:
        """Quantities that follow from the parameters, such as the exponents a and b."""
        return {}
