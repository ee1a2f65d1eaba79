"""A chart as data: what is drawn, in which colours, on which axes; by whom is another matter.

`static` draws a chart with matplotlib, `interactive` with plotly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.laws.base import Array

INK, MUTED = "#222222", "#8a8a8a"
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
SYMBOLS = ("circle", "square", "triangle", "diamond", "cross", "plus", "down")
CIVIDIS = ("#00224e", "#2a3f6d", "#575d6d", "#7d7c78", "#a59c74", "#d2c060", "#fee838")

Dash = Literal["solid", "dash", "dot"]


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows, with its unit; ticks as 30k or, with `powers`, as 3·10⁴."""

    label: str
    log: bool = False
    powers: bool = False
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """A line through (x, y)."""

    x: Array
    y: Array
    colour: str
    label: str | None = None
    width: float = 1.4
    dash: Dash = "solid"
    opacity: float = 1.0
    hover: str = ""


@dataclass(frozen=True)
class Points:
    """Marks at (x, y), with whiskers in either direction where there are any."""

    x: Array
    y: Array
    colour: str | Sequence[str]
    label: str | None = None
    symbol: str = "circle"
    filled: bool = True
    size: float = 4.0
    x_ends: tuple[Array, Array] | None = None
    y_ends: tuple[Array, Array] | None = None
    hover: Sequence[str] = ()


@dataclass(frozen=True)
class Band:
    """The area between two curves over x: an interval."""

    x: Array
    low: Array
    high: Array
    colour: str
    label: str | None = None


@dataclass(frozen=True)
class Span:
    """A shaded range of x, such as what lies beyond the data."""

    left: float
    right: float
    text: str = ""


@dataclass(frozen=True)
class Level:
    """A horizontal reference line."""

    y: float
    text: str = ""


@dataclass(frozen=True)
class Contours:
    """Lines of equal z over a grid; z is (len(y), len(x))."""

    x: Array
    y: Array
    z: Array
    levels: tuple[float, ...]


Mark = Line | Points | Band | Span | Level | Contours


@dataclass(frozen=True)
class Panel:
    """One pair of axes and what is on it."""

    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    title: str = ""


@dataclass(frozen=True)
class ColourScale:
    """What the shades of a chart mean, on a logarithmic scale."""

    label: str
    low: float
    high: float
    powers: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure: panels side by side under one legend."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    scale: ColourScale | None = None
    share_y: bool = False


def category(index: int) -> tuple[str, str]:
    """Colour and symbol of the index-th category: two cues, for print in grey."""
    return CATEGORIES[index % len(CATEGORIES)], SYMBOLS[index % len(SYMBOLS)]


def shade(share: float) -> str:
    """A colour of the cividis scale, 0 dark to 1 light; the lightest is kept off white paper."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in CIVIDIS], np.float64)
    at = float(np.clip(share, 0, 1)) * 0.93 * (len(stops) - 1)
    rgb = [round(float(np.interp(at, np.arange(len(stops)), stops[:, i]))) for i in range(3)]
    return "#" + "".join(f"{value:02x}" for value in rgb)


def log_shade(value: float, scale: ColourScale) -> str:
    """The shade of a value on a scale."""
    if scale.high <= scale.low:
        return shade(0.0)
    return shade(float(np.log(value / scale.low) / np.log(scale.high / scale.low)))


def ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: whole decades, or finer where there are few of them."""
    decades = np.log10(high / low)
    if decades > 2.5:
        step = int(np.ceil(decades / 6))
        powers = np.arange(np.ceil(np.log10(low) - 1e-9), np.floor(np.log10(high) + 1e-9) + 1, step)
        return [float(10.0**power) for power in powers]
    sets = ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(np.arange(10, 100, 5) / 10))
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    chosen: list[float] = []
    for multiples in sets:
        chosen = [
            float(m * 10.0**power)
            for power in range(first, last + 1)
            for m in multiples
            if low <= m * 10.0**power <= high
        ]
        if len(chosen) >= 3:
            break
    return chosen


SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 2) -> str:
    """A number for people: 0.05, 30k, 1.2M, 3·10¹²."""
    if value == 0 or not np.isfinite(value):
        return "0" if value == 0 else str(value)
    if 1e3 <= abs(value) < 1e12:
        for factor, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= factor * 0.9995:
                return (
                    f"{value / factor:.{digits}g}{suffix}"
                    if value < 100 * factor
                    else (f"{value / factor:.0f}{suffix}")
                )
    if 1e-2 <= abs(value) < 1e3:
        return f"{value:.{max(digits, 3)}g}"
    return power(value, digits)


def tick_text(value: float, powers: bool) -> str:
    """A tick's label."""
    return power(value) if powers else number(value)


def power(value: float, digits: int = 2) -> str:
    """A number as m·10ⁿ, the 1· left out."""
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    text = f"10{str(int(exponent)).translate(SUPERSCRIPT)}"
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return text if mantissa == "1" else f"{mantissa}·{text}"
