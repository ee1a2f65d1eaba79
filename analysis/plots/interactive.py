"""Charts drawn with plotly, as pages that need no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

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

SYMBOL = {
    "circle": "circle",
    "square": "square",
    "triangle": "triangle-up",
    "diamond": "diamond",
    "cross": "x",
    "plus": "cross",
    "down": "triangle-down",
    "star": "star",
}
HEIGHT, WIDTH = 460, 440


def draw(chart: Chart) -> go.Figure:
    """The chart as a plotly figure."""
    count = len(chart.panels)
    figure = make_subplots(
        1,
        count,
        shared_yaxes=chart.share_y,
        subplot_titles=[panel.title for panel in chart.panels],
        horizontal_spacing=0.04 if chart.share_y else 0.25 / (count + 1),
    )
    seen: set[str] = set()
    for column, panel in enumerate(chart.panels, 1):
        _axes(figure, chart, column)
        for mark in panel.marks:
            _mark(figure, mark, column, seen, panel.y.log)
    if chart.scale:
        _colour_bar(figure, chart)
    figure.update_layout(
        title={"text": chart.title, "x": 0.02, "font": {"size": 18}},
        template="plotly_white",
        font={"family": "Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        width=max(WIDTH * count + 60, 640),
        height=HEIGHT + 60,
        margin={"l": 70, "r": 30, "t": 80, "b": 60},
        legend={"orientation": "h", "y": -0.2, "x": 0.5, "xanchor": "center"},
        hoverlabel={"bgcolor": "white"},
    )
    return figure


def save(chart: Chart, path: Path) -> Path:
    """Write a page that carries plotly itself."""
    draw(chart).write_html(path, include_plotlyjs=True, full_html=True, div_id=chart.name)
    return path


def _axes(figure: go.Figure, chart: Chart, column: int) -> None:
    panel = chart.panels[column - 1]
    bare = chart.share_y and column > 1
    beside = chart.panels if chart.share_y else (panel,)
    for horizontal, axis, shown in ((True, panel.x, (panel,)), (False, panel.y, beside)):
        title = "" if bare and not horizontal else axis.label
        options: dict[str, Any] = {"title_text": title, "zeroline": False}
        options |= {"linecolor": INK, "ticks": "outside", "gridcolor": "#ececec"}
        if axis.log:
            options |= {"type": "log"} | _log_ticks(axis, shown, horizontal)
        elif axis.limits:
            options["range"] = axis.limits
        update = figure.update_xaxes if horizontal else figure.update_yaxes
        update(row=1, col=column, **options)


def _log_ticks(axis: Axis, shown: Sequence[Panel], horizontal: bool) -> dict[str, Any]:
    low, high = axis.limits or _extent(shown, horizontal)
    at = ticks(low, high)
    return {
        "range": [float(np.log10(low)), float(np.log10(high))],
        "tickvals": at,
        "ticktext": [tick_text(value, axis.powers) for value in at],
    }


def _extent(shown: Sequence[Panel], horizontal: bool) -> tuple[float, float]:
    """Range of the finite, positive values drawn, with a margin."""
    found: list[Array] = []
    for mark in (mark for panel in shown for mark in panel.marks):
        match mark:
            case Line() | Points() | Contours():
                found.append(np.ravel(mark.x if horizontal else mark.y))
            case Band():
                found += [mark.x] if horizontal else [mark.low, mark.high]
            case Span():
                found += [np.array([mark.left, mark.right])] if horizontal else []
            case Level():
                found += [] if horizontal else [np.array([mark.y])]
    values = np.concatenate(found) if found else np.ones(1)
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return 0.1, 10.0
    low, high = float(values.min()), float(values.max())
    margin = (high / low) ** 0.04 if high > low else 1.5
    return low / margin, high * margin


def _once(label: str | None, seen: set[str]) -> dict[str, Any]:
    """A label stands in the legend once, and switches everything that bears it."""
    if label is None:
        return {"showlegend": False}
    shown = label not in seen
    seen.add(label)
    return {"name": label, "legendgroup": label, "showlegend": shown}


def _mark(figure: go.Figure, mark: Mark, column: int, seen: set[str], log: bool) -> None:
    at = {"row": 1, "col": column}
    match mark:
        case Line():
            line = {"color": mark.colour, "width": mark.width * 1.5, "dash": mark.dash}
            hover = {"hovertext": mark.hover, "hoverinfo": "text"} if mark.hover else {}
            figure.add_trace(
                go.Scatter(
                    x=mark.x,
                    y=mark.y,
                    mode="lines",
                    line=line,
                    opacity=mark.opacity,
                    **hover,
                    **_once(mark.label, seen),
                ),
                **at,
            )
        case Points():
            figure.add_trace(_points(mark, seen), **at)
        case Band():
            figure.add_trace(
                go.Scatter(
                    x=np.concatenate([mark.x, mark.x[::-1]]),
                    y=np.concatenate([mark.high, mark.low[::-1]]),
                    fill="toself",
                    fillcolor=_transparent(mark.colour, 0.16),
                    line={"width": 0},
                    hoverinfo="skip",
                    **_once(mark.label, seen),
                ),
                **at,
            )
        case Span():
            figure.add_vrect(
                mark.left,
                mark.right,
                fillcolor="#000000",
                opacity=0.04,
                line_width=0,
                layer="below",
                exclude_empty_subplots=False,
                **at,
            )
            figure.add_annotation(
                x=float(np.log10(mark.right)),
                y=1,
                yref="y domain",
                text=mark.text,
                showarrow=False,
                xanchor="right",
                font={"color": MUTED, "size": 11},
                **at,
            )
        case Level():
            figure.add_hline(
                mark.y,
                line={"color": MUTED, "width": 1.2, "dash": "dash"},
                exclude_empty_subplots=False,
                **at,
            )
            figure.add_annotation(
                x=0,
                xref="x domain",
                y=float(np.log10(mark.y)) if log else mark.y,
                text=mark.text,
                showarrow=False,
                xanchor="left",
                yanchor="top",
                font={"color": MUTED, "size": 11},
                **at,
            )
        case Contours():
            _contours(figure, mark, at)


def _points(mark: Points, seen: set[str]) -> go.Scatter:
    colour = mark.colour if isinstance(mark.colour, str) else list(mark.colour)
    symbol = SYMBOL[mark.symbol] + ("" if mark.filled else "-open")
    first = colour if isinstance(colour, str) else colour[0]
    return go.Scatter(
        x=mark.x,
        y=mark.y,
        mode="markers",
        marker={"color": colour, "size": mark.size * 1.9, "symbol": symbol},
        error_x=_whiskers(mark.x, mark.x_ends, first),
        error_y=_whiskers(mark.y, mark.y_ends, first),
        hovertext=list(mark.hover) or None,
        hoverinfo="text" if mark.hover else "x+y",
        **_once(mark.label, seen),
    )


def _whiskers(at: Array, ends: tuple[Array, Array] | None, colour: str) -> dict[str, Any]:
    if ends is None:
        return {"visible": False}
    low, high = ends
    return {
        "type": "data",
        "symmetric": False,
        "array": np.nan_to_num(high - at, posinf=0.0),
        "arrayminus": np.nan_to_num(at - low, posinf=0.0),
        "thickness": 1.3,
        "width": 3,
        "color": colour,
    }


def _contours(figure: go.Figure, mark: Contours, at: dict[str, int]) -> None:
    for i, level in enumerate(mark.levels):
        colour = shade(i / max(len(mark.levels) - 1, 1))
        figure.add_trace(
            go.Contour(
                x=mark.x,
                y=mark.y,
                z=mark.z,
                contours={
                    "type": "constraint",
                    "operation": "=",
                    "value": level,
                    "showlabels": True,
                    "labelformat": ".3g",
                },
                line={"color": colour, "width": 1.4},
                showlegend=False,
                hovertemplate=f"L = {level:.4g}<extra></extra>",
            ),
            **at,
        )


def _colour_bar(figure: go.Figure, chart: Chart) -> None:
    scale = chart.scale
    assert scale is not None
    at = ticks(scale.low, scale.high) or [scale.low, scale.high]
    figure.add_trace(
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            showlegend=False,
            marker={
                "colorscale": [[s, shade(s)] for s in np.linspace(0, 1, 16)],
                "cmin": float(np.log10(scale.low)),
                "cmax": float(np.log10(scale.high)),
                "color": [float(np.log10(scale.low))],
                "showscale": True,
                "colorbar": {
                    "title": {"text": scale.label, "side": "right"},
                    "tickvals": [float(np.log10(value)) for value in at],
                    "ticktext": [tick_text(value, scale.powers) for value in at],
                    "thickness": 12,
                    "outlinewidth": 0,
                },
            },
        ),
        row=1,
        col=len(chart.panels),
    )


def _transparent(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
