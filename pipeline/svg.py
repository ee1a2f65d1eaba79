"""Charts drawn as SVG for a page, each panel on its own, in the colours of a light or dark theme.

A third drawer of `analysis.plots.chart`, beside matplotlib's and plotly's: a few kilobytes a panel,
and no script needed to see it. A mark that has something to tell carries it in `data-tip`; one that
stands in the legend carries its entry in `data-key`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np

from analysis.laws.base import Array
from analysis.plots.chart import (
    INK,
    MUTED,
    Axis,
    Band,
    Chart,
    Contours,
    Level,
    Line,
    Mark,
    Panel,
    Points,
    Span,
    shade,
    tick_text,
    ticks,
)

WIDTH, HEIGHT = 400, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 26, 44
DASH = {"solid": "", "dash": "6 4", "dot": "1.5 3"}
MARGIN = 0.04
"""Free space around the marks, as a share of their extent."""


@dataclass(frozen=True)
class Scale:
    """From values to places, on a linear or a logarithmic axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, values: Array | float) -> Array:
        given = np.asarray(values, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high, at = ((np.log(v) if self.log else v) for v in (self.low, self.high, given))
        return np.asarray(self.start + (at - low) / (high - low) * (self.end - self.start))

    def ticks(self) -> list[float]:
        if self.log:
            return ticks(self.low, self.high)
        step = 10.0 ** np.floor(np.log10((self.high - self.low) / 3))
        step *= next(m for m in (5, 2, 1) if (self.high - self.low) / (m * step) >= 3)
        return [float(v) for v in np.arange(np.ceil(self.low / step), self.high / step) * step]


def draw(chart: Chart, position: int) -> str:
    """Panel `position` of a chart as an `<svg>` element."""
    panel = chart.panels[position]
    beside = chart.panels if chart.share_y else (panel,)
    x = _scale(panel.x, (panel,), 0, LEFT, WIDTH - RIGHT)
    y = _scale(panel.y, beside, 1, HEIGHT - BOTTOM, TOP)
    frame = f"{chart.name}-{position}"
    title = f"{chart.title}: {panel.title}" if panel.title else chart.title
    return "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
            f'<clipPath id="{frame}"><rect x="{LEFT}" y="{TOP - 4}" '
            f'width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM + 4}"/></clipPath>',
            f'<text class="panel" x="{LEFT}" y="14">{escape(panel.title)}</text>',
            *_axes(panel, x, y),
            f'<g clip-path="url(#{frame})">',
            *(part for mark in panel.marks for part in _mark(mark, x, y)),
            "</g></svg>",
        ]
    )


def legend(chart: Chart) -> dict[str, str]:
    """The swatch of every label, in the order of the marks; that of the vertices comes last, and
    points that a fit leaves out stand for those of other panels only if all are left out."""
    chosen: dict[str, Line | Points | Band] = {}
    marks = [mark for panel in chart.panels for mark in panel.marks]
    for mark in sorted(marks, key=lambda mark: getattr(mark, "symbol", "") == "star"):
        if isinstance(mark, Line | Points | Band) and mark.label:
            known = chosen.get(mark.label)
            if known is None or (isinstance(known, Points) and not known.filled):
                chosen[mark.label] = mark
    return {
        label: f'<svg viewBox="0 0 28 14" width="28" height="14">{_swatch(mark)}</svg>'
        for label, mark in chosen.items()
    }


def _swatch(mark: Line | Points | Band) -> str:
    match mark:
        case Line():
            return f'<path d="M1 7H27" {_stroke(mark.colour, mark.width + 0.6, mark.dash)}/>'
        case Points():
            one = replace(mark, x=np.array([14.0]), y=np.array([7.0]), hover=())
            return "".join(_glyphs(one, one.x, one.y))
        case Band():
            return f'<rect x="2" y="2" width="24" height="10" {_fill(mark.colour, 0.18)}/>'


def _scale(axis: Axis, panels: Sequence[Panel], which: int, start: float, end: float) -> Scale:
    if axis.limits:
        return Scale(*axis.limits, start, end, axis.log)
    marks = [mark for panel in panels for mark in panel.marks]
    values = np.concatenate([np.zeros(0), *(v for m in marks for v in _values(m, which, axis.log))])
    values = values[np.isfinite(values) & ((values > 0) | (not axis.log))]
    if not len(values):
        return Scale(0.1, 10.0, start, end, axis.log)
    low, high = float(values.min()), float(values.max())
    if axis.log:
        room = (high / low) ** MARGIN if high > low else 1.5
        return Scale(low / room, high * room, start, end, True)
    room = (high - low) * MARGIN or 1.0
    return Scale(low - room, high + room, start, end, False)


def _values(mark: Mark, which: int, log: bool) -> list[Array]:
    """The values of a mark that its x (0) or y (1) axis must show.

    Whiskers are among them on a linear axis alone: on a logarithmic one they may reach to zero.
    """
    match mark:
        case Band():
            return [mark.x] if which == 0 else [mark.low, mark.high]
        case Span():
            return [np.array([mark.left, mark.right])] if which == 0 else []
        case Level():
            return [] if which == 0 else [np.array([mark.y])]
        case Points() if not log:
            ends = mark.x_ends if which == 0 else mark.y_ends
            return [mark.x if which == 0 else mark.y, *(ends or ())]
        case _:
            return [np.ravel(mark.x if which == 0 else mark.y)]


def _axes(panel: Panel, x: Scale, y: Scale) -> Iterator[str]:
    foot, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    for value in x.ticks():
        at = float(x(value))
        yield f'<path class="grid" d="M{at:.1f} {TOP}V{foot}"/>'
        yield f'<text class="tick" x="{at:.1f}" y="{foot + 15}" text-anchor="middle">'
        yield f"{_tick(panel.x, value)}</text>"
    for value in y.ticks():
        at = float(y(value))
        yield f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text class="tick" x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">'
        yield f"{_tick(panel.y, value)}</text>"
    yield f'<path class="axis" d="M{LEFT} {TOP}V{foot}H{WIDTH - RIGHT}"/>'
    yield f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" '
    yield f'text-anchor="middle">{escape(panel.x.label)}</text>'
    yield f'<text class="label" transform="translate(11 {middle}) rotate(-90)" '
    yield f'text-anchor="middle">{escape(panel.y.label)}</text>'


def _tick(axis: Axis, value: float) -> str:
    return tick_text(value, axis.powers) if axis.log else f"{value + 0.0:.4g}".replace("-", "−")


def _mark(mark: Mark, x: Scale, y: Scale) -> Iterator[str]:
    match mark:
        case Line():
            key = _key(mark.label, (mark.hover,))
            style = f"{_stroke(mark.colour, mark.width, mark.dash)} opacity='{mark.opacity}'"
            yield f'<path d="{_path(x(mark.x), y(mark.y))}" {style}{key}/>'
        case Points():
            yield f"<g{_key(mark.label, ())}>"
            yield from _whiskers(mark, x, y)
            yield from _glyphs(mark, x(mark.x), y(mark.y))
            yield "</g>"
        case Band():
            across = np.concatenate([x(mark.x), x(mark.x)[::-1]])
            around = np.concatenate([y(mark.high), y(mark.low)[::-1]])
            key = _key(mark.label, ())
            yield f'<path d="{_path(across, around)}Z" {_fill(mark.colour, 0.16)}{key}/>'
        case Span():
            left, right = float(x(mark.left)), float(x(mark.right))
            yield f'<rect class="span" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
            yield f'height="{HEIGHT - TOP - BOTTOM}"/>'
            yield f'<text class="note" x="{right - 4:.1f}" y="{TOP + 10}" text-anchor="end">'
            yield f"{escape(mark.text)}</text>"
        case Level():
            at = float(y(mark.y))
            yield f'<path class="level" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
            yield f'<text class="note" x="{LEFT + 6}" y="{at - 4:.1f}">{escape(mark.text)}</text>'
        case Contours():
            yield from _contours(mark, x, y)


def _glyphs(mark: Points, xs: Array, ys: Array) -> Iterator[str]:
    """The points that lie at places, each with its tip."""
    colours = [mark.colour] * len(xs) if isinstance(mark.colour, str) else mark.colour
    outline = SHAPES[mark.symbol](mark.size * 0.95)
    for i, (at, up) in enumerate(zip(xs, ys, strict=True)):
        if not (np.isfinite(at) and np.isfinite(up)):
            continue
        tip = _key(None, mark.hover[i : i + 1])
        style = _fill(colours[i], 1.0) if mark.filled else _stroke(colours[i], 1.2)
        yield f'<path d="{outline}" transform="translate({at:.1f} {up:.1f})" {style}{tip}/>'


def _whiskers(mark: Points, x: Scale, y: Scale) -> Iterator[str]:
    colour = mark.colour if isinstance(mark.colour, str) else mark.colour[0]
    bars: list[str] = []
    if mark.x_ends:
        for left, right, up in zip(x(mark.x_ends[0]), x(mark.x_ends[1]), y(mark.y), strict=True):
            bars.append(f"M{_inside(left):.1f} {up:.1f}H{_inside(right):.1f}")
    if mark.y_ends:
        for low, high, at in zip(y(mark.y_ends[0]), y(mark.y_ends[1]), x(mark.x), strict=True):
            bars.append(f"M{at:.1f} {_inside(low):.1f}V{_inside(high):.1f}")
    if bars:
        yield f'<path d="{"".join(bars)}" {_stroke(colour, 1.2)}/>'


def _inside(place: float) -> float:
    """A place that SVG can take, for an end that is unbounded."""
    return float(np.clip(np.nan_to_num(place), -WIDTH, 2 * WIDTH))


def _contours(mark: Contours, x: Scale, y: Scale) -> Iterator[str]:
    from contourpy import contour_generator

    lines = contour_generator(mark.x, mark.y, mark.z)
    for i, level in enumerate(mark.levels):
        stroke = _stroke(shade(i / max(len(mark.levels) - 1, 1)), 1.2)
        for line in lines.lines(level):
            across, up = np.asarray(line, np.float64).T
            tip = _key(None, (f"L = {level:.4g}",))
            yield f'<path d="{_path(x(across), y(up))}" {stroke}{tip}/>'


def _path(xs: Array, ys: Array) -> str:
    """Straight lines through the finite places; one that is not finite breaks the line."""
    parts: list[str] = []
    pen = "M"
    for at, up in zip(xs, ys, strict=True):
        if np.isfinite(at) and np.isfinite(up):
            parts.append(f"{pen}{_inside(at):.1f} {_inside(up):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _stroke(colour: str, width: float, dash: str = "solid") -> str:
    dashes = f' stroke-dasharray="{DASH[dash]}"' if DASH[dash] else ""
    return f'class="line" style="--hue:{themed(colour)}" stroke-width="{width}"{dashes}'


def _fill(colour: str, opacity: float) -> str:
    return f'class="area" style="--hue:{themed(colour)}" fill-opacity="{opacity}"'


def themed(colour: str) -> str:
    """The colour as either theme shows it: ink turns, a hue is lightened on dark paper."""
    turning = {INK: "var(--ink)", "#000000": "var(--ink)", MUTED: "var(--muted)"}
    lighter = f"light-dark({colour},color-mix(in oklab,{colour} 62%,white))"
    return turning.get(colour, lighter)


def _key(label: str | None, tips: Sequence[str]) -> str:
    key = f' data-key="{escape(label)}"' if label else ""
    tip = f' data-tip="{escape(tips[0])}"' if tips and tips[0] else ""
    return key + tip


def _polygon(sides: int, turn: float, inner: float = 1.0) -> Callable[[float], str]:
    """A regular polygon of about a circle's area, or a star whose notches are at `inner`."""

    def outline(radius: float) -> str:
        count = sides if inner == 1.0 else 2 * sides
        angles = turn + 2 * np.pi * np.arange(count) / count
        reach = radius * 1.2 * np.where(np.arange(count) % 2, inner, 1.0)
        return _path(reach * np.cos(angles), reach * np.sin(angles)) + "Z"

    return outline


SHAPES: dict[str, Callable[[float], str]] = {
    "circle": lambda r: (
        f"M{-r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {-2 * r:.1f} 0Z"
    ),
    "square": _polygon(4, np.pi / 4),
    "triangle": _polygon(3, -np.pi / 2),
    "down": _polygon(3, np.pi / 2),
    "diamond": _polygon(4, 0.0),
    "cross": _polygon(4, np.pi / 4, 0.4),
    "plus": _polygon(4, 0.0, 0.4),
    "star": _polygon(5, -np.pi / 2, 0.45),
}
