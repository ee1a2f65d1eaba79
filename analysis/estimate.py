"""A number with its interval, and intervals from resamples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.laws.base import Array

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; an end that the data do not bound is infinite."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float | Array, samples: Array, level: float = LEVEL) -> Estimate:
        """The percentile interval of resamples around a point estimate.

        Resamples that have no answer (NaN) count half towards either end, so that an interval
        is never narrowed by dropping them.
        """
        samples = np.asarray(samples, dtype=np.float64).ravel()
        value = float(value)
        if not samples.size:
            return cls(value, -math.inf, math.inf)
        missing = np.isnan(samples)
        lows, highs = np.where(missing, -np.inf, samples), np.where(missing, np.inf, samples)
        tail = (1 - level) / 2
        low = float(np.quantile(lows, tail, method="closest_observation"))
        high = float(np.quantile(highs, 1 - tail, method="closest_observation"))
        return cls(value, low, high)

    def to_dict(self) -> dict[str, float | None]:
        """JSON has no infinities: an unbounded end is null."""
        return {"value": finite(self.value), "low": finite(self.low), "high": finite(self.high)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Estimate:
        """The estimate that `to_dict` was called on."""
        low = -math.inf if fields["low"] is None else float(fields["low"])
        high = math.inf if fields["high"] is None else float(fields["high"])
        value = math.nan if fields["value"] is None else float(fields["value"])
        return cls(value, low, high)

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __format__(self, spec: str) -> str:
        spec = spec or ".3g"
        return f"{self.value:{spec}} [{_end(self.low, spec)}, {_end(self.high, spec)}]"


def finite(value: float) -> float | None:
    """The value, or None where JSON could not hold it."""
    return float(value) if math.isfinite(value) else None


def _end(value: float, spec: str) -> str:
    return f"{value:{spec}}" if math.isfinite(value) else ("∞" if value > 0 else "−∞")
