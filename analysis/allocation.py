"""Answers of a law: how to spend a budget, and what loss to expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.estimate import Estimate
from analysis.laws.base import Array
from analysis.notices import Extrapolating, Notice


@dataclass(frozen=True)
class Allocation:
    """How to spend `flops`: parameters, tokens, and the loss to expect, each with its interval.

    `extrapolation` is `flops` over the largest compute in the table the law was fitted to.
    """

    flops: float
    params: Estimate
    tokens: Estimate
    tokens_per_param: Estimate
    loss: Estimate | None
    extrapolation: float
    notices: tuple[Notice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON, unbounded ends null."""
        return {
            "flops": self.flops,
            "params": self.params.to_dict(),
            "tokens": self.tokens.to_dict(),
            "tokens_per_param": self.tokens_per_param.to_dict(),
            "loss": self.loss and self.loss.to_dict(),
            "extrapolation": self.extrapolation,
            "warnings": [notice.to_dict() for notice in self.notices],
        }


@dataclass(frozen=True)
class Prediction:
    """Predicted losses with their intervals, arrays of one shape."""

    loss: Array
    low: Array
    high: Array


def extrapolation_notice(flops: float, factor: float) -> tuple[Notice, ...]:
    """A notice where `flops` lie beyond the table."""
    if factor <= 1.0 + 1e-9:
        return ()
    message = f"{flops:.3g} FLOPs are {factor:.3g} times the largest compute in the table"
    return (Extrapolating(message, factor=float(factor)),)
