"""A curve in one line of text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """A bar for the mean of each of ``width`` equal parts; fewer values get a bar each."""
    if not values:
        return ""
    parts = min(width, len(values))
    edges = [round(part * len(values) / parts) for part in range(parts + 1)]
    means = [fmean(values[start:end]) for start, end in pairwise(edges)]
    low, extent = min(means), max(means) - min(means)
    tallest = len(BARS) - 1
    return "".join(BARS[round((mean - low) / extent * tallest) if extent else 0] for mean in means)
