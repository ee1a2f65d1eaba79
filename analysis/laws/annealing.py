"""The law of a whole training curve: a power of the summed learning rate, and what annealing adds.

One run then gives as many points as it has evaluations, under any schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.laws.base import Array, Law, Parameter, Problem, Values
from analysis.laws.posynomial import Posynomial, PosynomialProblem, Term

MOMENTUM = 0.999
GAIN = (1e-6, 0.5)
"""Share of the loss that annealing may take off at its largest area in the table."""
MOST = 0.9
"""Share of the power law's loss past which annealing takes no more in a trial step."""


def schedule_areas(learning_rates: Array, momentum: float = MOMENTUM) -> tuple[Array, Array]:
    """S₁ and S₂ after each step of a schedule (steps,), in units of the learning rate.

    S₁ = Σ η_i; S₂ = Σ_i Σ_{k≤i} (η_{k−1} − η_k)·λ^(i−k), the area by which the rate has fallen,
    fading with `momentum` λ (arXiv 2408.11029, eq. 1). Rises count nothing here, where the paper
    takes them off the area again. Start at the peak: warm-up is not annealing.
    """
    fall = np.maximum(-np.diff(learning_rates, prepend=learning_rates[0]), 0.0)
    faded = np.empty_like(learning_rates, dtype=np.float64)
    running = 0.0
    for step, amount in enumerate(fall):
        running = running * momentum + float(amount)
        faded[step] = running
    return np.cumsum(learning_rates), np.cumsum(faded)


@dataclass(frozen=True)
class Annealing(Law):
    """L = (power law) − C·S₂ (Tissue et al. 2024, arXiv 2408.11029, eq. 1 and 5)."""

    name: str
    title: str
    power: Posynomial

    equation = "L = L₀ + A/S₁^α (+ B/N^β) − C·S₂"
    source = (
        "Tissue et al. 2024, Scaling Law with Learning Rate Annealing, arXiv 2408.11029; "
        "S₁, S₂ by analysis.laws.annealing.schedule_areas"
    )

    @property
    def parameters(self) -> tuple[Parameter, ...]:  # type: ignore[override]
        """Those of the power law, and C."""
        gain = Parameter("C", "nats/token per unit of S₂", "what annealing takes off the loss")
        return (*self.power.parameters, gain)

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the power law, and annealing_area."""
        return (*self.power.columns, "annealing_area")

    def predict(self, values: Values, columns: Mapping[str, Array]) -> Array:
        """Eq. 1."""
        return self.power.predict(values, columns) - values["C"] * columns["annealing_area"]

    def problem(self, columns: Mapping[str, Array], log_target_N: Array) -> Problem:
        """The power law's problem with one coordinate more."""
        return AnnealingProblem(
            self.power.problem(columns, log_target_N), columns["annealing_area"]
        )


class AnnealingProblem(Problem):
    """Coordinates: the power law's, and log of C·max S₂ over the typical loss."""

    def __init__(self, power: PosynomialProblem, area_N: Array) -> None:
        self.power = power
        self.unit = max(float(area_N.max()), 1e-300)
        self.area_N = area_N / self.unit
        self.low_P = np.append(power.low_P, np.log(GAIN[0]))
        self.high_P = np.append(power.high_P, np.log(GAIN[1]))

    def log_predict(self, theta_RP: Array) -> tuple[Array, Array]:
        """log (P − C·S₂), floored at a tenth of P where a trial step would cross zero."""
        log_power, jacobian = self.power.log_predict(theta_RP[:, :-1])
        taken = np.exp(theta_RP[:, -1:] + self.power.scale - log_power) * self.area_N
        moving = taken < MOST
        left = 1 - np.minimum(taken, MOST)
        by_power = jacobian / np.where(moving, left, 1.0)[:, :, None]
        by_gain = np.where(moving, -taken / left, 0.0)
        return log_power + np.log(left), np.concatenate([by_power, by_gain[:, :, None]], axis=2)

    def starts(self, log_target_N: Array) -> Array:
        """The power law's, each with a small and a large gain."""
        power = self.power.starts(log_target_N)
        gains = np.log([0.003, 0.1])
        return np.concatenate(
            [np.repeat(power, len(gains), axis=0), np.tile(gains, len(power))[:, None]], axis=1
        )

    def natural(self, theta_RP: Array) -> Array:
        """The power law's parameters, and C."""
        gain = np.exp(theta_RP[:, -1:] + self.power.scale) / self.unit
        return np.concatenate([self.power.natural(theta_RP[:, :-1]), gain], axis=1)

    def coordinates(self, values_P: Array) -> Array:
        """The inverse of `natural`."""
        gain = np.log(values_P[-1] * self.unit) - self.power.scale
        theta = np.append(self.power.coordinates(values_P[:-1]), gain)
        return np.asarray(np.clip(theta, self.low_P, self.high_P))

    def at_bounds(self, theta_RP: Array) -> NDArray[np.int8]:
        """Of the power law's parameters in their order, and of C."""
        last = super().at_bounds(theta_RP)[:, -1:]
        return np.concatenate([self.power.at_bounds(theta_RP[:, :-1]), last], axis=1)


_LEVEL = Parameter("L0", "nats/token", "loss of infinite training")
_AREA = Parameter("A", "nats/token · S₁^α", "term of the summed learning rate")
_ALPHA = Parameter("alpha", "1", "exponent of the summed learning rate")
_SUM = Term("A", {"alpha": {"learning_rate_area": -1}})

ANNEALING = Annealing(
    "annealing",
    "annealing",
    Posynomial(
        name="annealing-power",
        title="annealing, power part",
        equation="L₀ + A/S₁^α",
        source=Annealing.source,
        parameters=(_LEVEL, _AREA, _ALPHA),
        columns=("learning_rate_area",),
        terms=(Term("L0"), _SUM),
    ),
)
ANNEALING_ACROSS_SIZES = Annealing(
    "annealing-across-sizes",
    "annealing across sizes",
    Posynomial(
        name="annealing-across-sizes-power",
        title="annealing across sizes, power part",
        equation="L₀ + A/S₁^α + B/N^β",
        source=Annealing.source,
        parameters=(
            _LEVEL,
            _AREA,
            Parameter("B", "nats/token · params^β", "parameter term"),
            _ALPHA,
            Parameter("beta", "1", "exponent of parameters"),
        ),
        columns=("learning_rate_area", "params"),
        terms=(Term("L0"), _SUM, Term("B", {"beta": {"params": -1}})),
    ),
)
