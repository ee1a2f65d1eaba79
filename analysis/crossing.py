"""Where two architectures' frontiers cross, and whether the data say that they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from analysis.compare import require_identified
from analysis.estimate import Estimate
from analysis.laws.base import Array
from analysis.result import Fit

POINTS = 257
Verdict = Literal["crosses", "does not cross", "undecided"]


@dataclass(frozen=True)
class Crossing:
    """The budget at which the better of two changes, sought between `low` and `high` FLOPs.

    `share` is the share of resamples that cross there; `flops` is None where the point estimates
    do not. The verdict follows the level: a share between 1 − level and level decides nothing.
    """

    flops: Estimate | None
    share: float
    low: float
    high: float
    better_below: str
    better_above: str
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "flops": self.flops and self.flops.to_dict(),
            "share": self.share,
            "range": [self.low, self.high],
            "better_below": self.better_below,
            "better_above": self.better_above,
            "verdict": self.verdict,
        }


def crossing(
    one: Fit,
    other: Fit,
    *,
    reach: float = 100.0,
    names: tuple[str, str] = ("one", "other"),
) -> Crossing:
    """The first crossing from the tables' smallest compute to `reach` times their largest."""
    require_identified(one, other)
    ranges = [fitted.data.ranges["flops"] for fitted in (one, other)]
    low = min(ends[0] for ends in ranges)
    high = max(ends[1] for ends in ranges) * reach
    flops = np.geomspace(low, high, POINTS)
    ahead = one.frontier(flops)[2] - other.frontier(flops)[2]
    count = min(len(one.samples_RP), len(other.samples_RP))
    samples = [
        fitted.frontier(flops, {name: v[:count] for name, v in fitted.samples.items()})[2]
        for fitted in (one, other)
    ]
    where = _first_change(np.log(flops), (samples[0] - samples[1]).reshape(count, POINTS))
    share = float(np.isfinite(where).mean()) if count else 0.0
    centre = float(_first_change(np.log(flops), ahead[None])[0])
    level = one.level
    found = np.exp(where[np.isfinite(where)])
    below, above = (names[int(ahead[end] > 0)] for end in (0, -1))
    return Crossing(
        flops=Estimate.of(np.exp(centre), found, level) if np.isfinite(centre) else None,
        share=share,
        low=low,
        high=high,
        better_below=below,
        better_above=above,
        verdict=_verdict(share, level),
    )


def _verdict(share: float, level: float) -> Verdict:
    if share >= level:
        return "crosses"
    return "does not cross" if share <= 1 - level else "undecided"


def _first_change(x: Array, difference_RX: Array) -> Array:
    """x of the first change of sign in each row (R,), interpolated; NaN where there is none."""
    changes = np.sign(difference_RX[:, 1:]) != np.sign(difference_RX[:, :-1])
    first = changes.argmax(axis=1)
    rows = np.arange(len(difference_RX))
    before, after = difference_RX[rows, first], difference_RX[rows, first + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x[first] + (x[first + 1] - x[first]) * before / (before - after)
    return np.where(changes.any(axis=1), at, np.nan)
