"""Charts drawn with matplotlib, for PNG, SVG and PDF."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

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

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
SYMBOL = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "diamond": "D",
    "cross": "X",
    "plus": "P",
    "down": "v",
    "star": "*",
}
DASH = {"solid": "-", "dash": (0, (4, 2)), "dot": (0, (1, 1.5))}
PANEL_INCHES = (3.1, 2.5)
DPI = 200


def draw(chart: Chart) -> Figure:
    """The chart as a matplotlib figure, without pyplot's global state."""
    with mpl.rc_context(STYLE):
        count = len(chart.panels)
        wide = PANEL_INCHES[0] * count + (0.5 if chart.scale else 0)
        figure = Figure(figsize=(wide, PANEL_INCHES[1] + 0.35), layout="constrained", dpi=DPI)
        FigureCanvasAgg(figure)
        every = figure.subplots(1, count, sharey=chart.share_y, squeeze=False)[0]
        for axes, panel in zip(every, chart.panels, strict=True):
            _panel(axes, panel)
        if chart.share_y:
            for axes in every[1:]:
                axes.set_ylabel("")
        if chart.scale:
            colours = LinearSegmentedColormap.from_list(
                "shade", [shade(s) for s in np.linspace(0, 1, 32)]
            )
            mappable = ScalarMappable(LogNorm(chart.scale.low, chart.scale.high), colours)
            bar = figure.colorbar(mappable, ax=list(every), pad=0.01, aspect=30)
            bar.set_label(chart.scale.label)
            bar.outline.set_visible(False)
            _log_ticks(bar.ax.yaxis, chart.scale.low, chart.scale.high, chart.scale.powers)
        _legend(figure, every)
        return figure


def save(chart: Chart, path: Path) -> Path:
    """Write the chart; the suffix chooses PNG, SVG or PDF."""
    with mpl.rc_context(STYLE):
        draw(chart).savefig(path, metadata=None)
    return path


def _legend(figure: Figure, every: Sequence[Axes]) -> None:
    entries: dict[str, Any] = {}
    for axes in every:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in entries or _is_hollow(entries[label]):
                entries[label] = handle
    # Stars mark what is derived from the other entries: they come last.
    entries = dict(sorted(entries.items(), key=lambda entry: "vertex" in entry[0]))
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower center",
            ncols=min(len(entries), _columns(figure, entries)),
            frameon=False,
            handlelength=1.6,
            columnspacing=1.4,
        )


def _is_hollow(handle: Any) -> bool:
    """Points that a fit leaves out, whose colour another panel may show better."""
    return isinstance(handle, PathCollection) and not len(handle.get_facecolor())


def _columns(figure: Figure, labels: Iterable[str]) -> int:
    """How many legend entries fit beside each other, by the longest: 17 letters an inch."""
    entry = max(map(len, labels)) / 17 + 0.5
    return max(int(figure.get_figwidth() / entry), 1)


def _panel(axes: Axes, panel: Panel) -> None:
    for mark in panel.marks:
        _mark(axes, mark)
    axes.set_title(panel.title, loc="left")
    for axis, side in ((panel.x, "x"), (panel.y, "y")):
        _axis(axes, axis, side)


def _axis(axes: Axes, axis: Axis, side: str) -> None:
    getattr(axes, f"set_{side}label")(axis.label)
    if axis.log:
        getattr(axes, f"set_{side}scale")("log")
    if axis.limits:
        getattr(axes, f"set_{side}lim")(axis.limits)
    if axis.log:
        low, high = getattr(axes, f"get_{side}lim")()
        _log_ticks(getattr(axes, f"{side}axis"), low, high, axis.powers)


def _log_ticks(axis: mpl.axis.Axis, low: float, high: float, powers: bool) -> None:
    at = ticks(low, high)
    axis.set_major_locator(FixedLocator(at))
    axis.set_major_formatter(FixedFormatter([tick_text(value, powers) for value in at]))
    axis.set_minor_locator(NullLocator())


def _mark(axes: Axes, mark: Mark) -> None:
    match mark:
        case Line():
            axes.plot(
                mark.x,
                mark.y,
                color=mark.colour,
                label=mark.label,
                lw=mark.width,
                ls=DASH[mark.dash],
                alpha=mark.opacity,
            )
        case Points():
            _points(axes, mark)
        case Band():
            axes.fill_between(
                mark.x, mark.low, mark.high, color=mark.colour, alpha=0.16, lw=0, label=mark.label
            )
        case Span():
            axes.axvspan(mark.left, mark.right, color="#000000", alpha=0.04, lw=0)
            axes.annotate(
                mark.text,
                (mark.right, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-3, -3),
                textcoords="offset points",
                ha="right",
                va="top",
                color=MUTED,
                fontsize=7.5,
            )
        case Level():
            axes.axhline(mark.y, color=MUTED, lw=0.8, ls=DASH["dash"])
            axes.annotate(
                mark.text,
                (0, mark.y),
                xycoords=("axes fraction", "data"),
                xytext=(3, -3),
                textcoords="offset points",
                va="top",
                color=MUTED,
                fontsize=7.5,
            )
        case Contours():
            lines = axes.contour(
                mark.x,
                mark.y,
                mark.z,
                levels=list(mark.levels),
                colors=[shade(i / max(len(mark.levels) - 1, 1)) for i in range(len(mark.levels))],
                linewidths=0.9,
            )
            axes.clabel(lines, fontsize=7, fmt="%.3g", inline_spacing=2)


def _points(axes: Axes, mark: Points) -> None:
    colour = mark.colour if isinstance(mark.colour, str) else list(mark.colour)
    first = colour if isinstance(colour, str) else colour[0]
    if mark.x_ends or mark.y_ends:
        axes.errorbar(
            mark.x,
            mark.y,
            xerr=_whiskers(mark.x, mark.x_ends),
            yerr=_whiskers(mark.y, mark.y_ends),
            fmt="none",
            ecolor=first,
            elinewidth=0.9,
            capsize=1.5,
            capthick=0.9,
            zorder=2.9,
        )
    axes.scatter(
        mark.x,
        mark.y,
        s=mark.size**2,
        marker=SYMBOL[mark.symbol],
        c=colour if mark.filled else "none",
        edgecolors=colour if not mark.filled else "white",
        linewidths=0.4 if mark.filled else 0.9,
        label=mark.label,
        zorder=3,
    )


def _whiskers(at: Array, ends: tuple[Array, Array] | None) -> Array | None:
    """Lengths below and above, an unbounded end drawn far off the axes."""
    if ends is None:
        return None
    far = 1e3 * np.abs(at)
    low, high = np.maximum(ends[0], at - far), np.minimum(ends[1], at + far)
    return np.maximum(np.stack([at - low, high - at]), 0.0)
