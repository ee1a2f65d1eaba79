"""Architectures against each other: how much compute one saves at equal loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.estimate import Estimate
from analysis.laws.base import Array, Values
from analysis.notices import NotIdentifiable, RefusedError
from analysis.result import Fit

LOG_FLOPS = (0.0, np.log(1e45))


@dataclass(frozen=True)
class Gain:
    """Compute-equivalent gain: `baseline` needs `gain` times the FLOPs to reach `loss`.

    `flops` is what `architecture` spends; above 1 the architecture is the better one there.
    """

    architecture: str
    baseline: str
    flops: float
    loss: float
    gain: Estimate

    def to_dict(self) -> dict[str, Any]:
        """As JSON, unbounded ends null."""
        return {
            "architecture": self.architecture,
            "baseline": self.baseline,
            "flops": self.flops,
            "loss": self.loss,
            **self.gain.to_dict(),
        }

    @property
    def decided(self) -> bool:
        """Whether the interval leaves no doubt which is better."""
        return 1.0 not in self.gain


def gain_at_budget(
    fit: Fit, baseline: Fit, flops: float, names: tuple[str, str] = ("architecture", "baseline")
) -> Gain:
    """C_baseline(ℓ)/C for the loss ℓ that the fit's architecture reaches optimally at C = `flops`.

    Infinite where the baseline never gets there. Resamples of the two fits are paired by their
    order: they are dependent when they were drawn together.
    """
    require_identified(fit, baseline)
    loss, loss_R = (fit.frontier(flops, values)[2] for values in (fit.values, fit.samples))
    count = min(len(fit.samples_RP), len(baseline.samples_RP))
    base_R = {name: values[:count] for name, values in baseline.samples.items()}
    value = flops_for_loss(baseline, loss, baseline.values) / flops
    samples = flops_for_loss(baseline, loss_R[:count], base_R) / flops
    return Gain(*names, float(flops), float(loss), Estimate.of(value, samples, fit.level))


def gain_at_loss(
    fit: Fit, baseline: Fit, loss: float, names: tuple[str, str] = ("architecture", "baseline")
) -> Gain:
    """C_baseline(ℓ)/C_architecture(ℓ) at a given loss."""
    require_identified(fit, baseline)
    target = np.asarray(loss, dtype=np.float64)
    count = min(len(fit.samples_RP), len(baseline.samples_RP))
    flops, flops_R = (flops_for_loss(fit, target, v) for v in (fit.values, fit.samples))
    base, base_R = (
        flops_for_loss(baseline, target, v) for v in (baseline.values, baseline.samples)
    )
    with np.errstate(invalid="ignore"):
        value, samples = base / flops, base_R[:count] / flops_R[:count]
    return Gain(*names, float(flops), float(loss), Estimate.of(value, samples, fit.level))


def flops_for_loss(fit: Fit, loss: Array, values: Values) -> Array:
    """Compute at which the frontier reaches `loss`; infinite where it never does."""
    shape = np.broadcast_shapes(np.shape(loss), np.shape(next(iter(values.values()))))
    low, high = (np.full(shape, end) for end in LOG_FLOPS)
    reached = fit.frontier(np.exp(high), values)[2] < loss
    for _ in range(100):
        middle = (low + high) / 2
        above = fit.frontier(np.exp(middle), values)[2] > loss
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(reached, np.exp(high), np.inf)


def require_identified(*fits: Fit) -> None:
    """Raise `RefusedError` where a design leaves a law's parameters free."""
    for fit in fits:
        for notice in fit.notices:
            if isinstance(notice, NotIdentifiable):
                raise RefusedError(notice)
