"""Axes that show the estimates whole, and of unbounded intervals as much as fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.laws.base import Array
from analysis.plots.chart import Band, Level, Line, Mark, Panel, Points

REACH = 20.0
"""An interval widens its axis by at most this factor beyond the estimates."""


def framed(panel: Panel) -> Panel:
    """The panel with limits on its logarithmic y axis, and its intervals cut well outside them."""
    central = _positive([m.y for m in panel.marks if isinstance(m, Line | Points)])
    if not len(central):
        return panel
    levels = [np.array([m.y]) for m in panel.marks if isinstance(m, Level)]
    low, high = float(central.min()), float(central.max())
    ends = _positive([central, *levels, *_ends(panel.marks)])
    bottom, top = max(float(ends.min()), low / REACH), min(float(ends.max()), high * REACH)
    margin = (top / bottom) ** 0.05 if top > bottom else 1.5
    limits = (bottom / margin, top * margin)
    marks = tuple(_cut(mark, limits[0] / REACH, limits[1] * REACH) for mark in panel.marks)
    return replace(panel, y=replace(panel.y, limits=limits), marks=marks)


def _ends(marks: tuple[Mark, ...]) -> list[Array]:
    found: list[Array] = []
    for mark in marks:
        if isinstance(mark, Band):
            found += [mark.low, mark.high]
        elif isinstance(mark, Points) and mark.y_ends:
            found += mark.y_ends
    return found


def _positive(values: list[Array]) -> Array:
    joined = np.concatenate([np.ravel(v) for v in values]) if values else np.zeros(0)
    return np.asarray(joined[np.isfinite(joined) & (joined > 0)])


def _cut(mark: Mark, low: float, high: float) -> Mark:
    def clip(values: Array) -> Array:
        return np.clip(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)

    if isinstance(mark, Band):
        return replace(mark, low=clip(mark.low), high=clip(mark.high))
    if isinstance(mark, Points) and mark.y_ends:
        return replace(mark, y_ends=(clip(mark.y_ends[0]), clip(mark.y_ends[1])))
    return mark
