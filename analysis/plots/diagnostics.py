"""Charts of what a fit knows and does not: its surface, the profile of E, what it predicts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from analysis.holdout import Cut
from analysis.plots.chart import (
    INK,
    Axis,
    Chart,
    Contours,
    Level,
    Line,
    Mark,
    Panel,
    Points,
    category,
)
from analysis.profile_likelihood import ParameterProfile
from analysis.study import ArchitectureStudy, StudyAnalysis

GRID = 60
LEVELS = 9
JITTER = 0.5


def surface(study: StudyAnalysis) -> Chart:
    """Contours of the fitted loss over size and compute, the runs, and the efficient frontier."""
    panels = []
    for name, part in study.architectures.items():
        params, flops = part.table.column("params"), part.table.flops
        marks: list[Mark] = []
        law = part.approach3
        if law and law.identifiable:
            x = np.geomspace(params.min() / 2, params.max() * 2, GRID)
            y = np.geomspace(flops.min() / 2, flops.max() * 2, GRID)
            tokens = law.rule.tokens(y[:, None], x[None])
            z = law.law.predict(law.values, {"params": x[None], "tokens": tokens})
            shown = part.table.column("loss")
            marks.append(Contours(x, y, z, _levels(float(shown.min()), float(shown.max()))))
            best = law.frontier(y)[0]
            inside = (best >= x[0]) & (best <= x[-1])
            marks.append(
                Line(best[inside], y[inside], "#D55E00", "efficient frontier N*(C)", width=1.8)
            )
        marks.append(Points(params, flops, INK, "runs", size=2.6))
        axes = (
            Axis("parameters N", log=True),
            Axis("training compute C (FLOPs)", log=True, powers=True),
        )
        panels.append(Panel(*axes, tuple(marks), name))
    return Chart("surface", "Fitted loss (nats/token) over size and compute", tuple(panels))


def _levels(low: float, high: float) -> tuple[float, ...]:
    """About `LEVELS` round values of the loss."""
    rough = (high - low) / LEVELS
    unit = 10.0 ** np.floor(np.log10(rough)) if rough > 0 else 1.0
    step = unit * next(m for m in (1, 2, 2.5, 5, 10) if m * unit >= rough)
    return tuple(np.round(np.arange(np.ceil(low / step), high / step + 1) * step, 6).tolist())


def floor_profile(study: StudyAnalysis) -> Chart:
    """How much worse the fit gets as E is held elsewhere, and the interval that follows."""
    panels = []
    for index, (name, part) in enumerate(study.architectures.items()):
        marks: list[Mark] = []
        if part.floor:
            marks += _profile_marks(part.floor, category(index)[0])
        if not marks:
            continue
        label = Axis("rise of the objective (95 % ends at 1)", limits=(-0.3, 4.0))
        panels.append(Panel(Axis("irreducible loss E (nats/token)"), label, tuple(marks), name))
    return Chart("profile_of_E", "Profile of the irreducible loss", tuple(panels), share_y=True)


def _profile_marks(found: ParameterProfile, colour: str) -> Iterator[Mark]:
    lowest = float(found.objective.min())
    rise = (found.objective - lowest) / (found.threshold - lowest)
    shown = rise <= 6
    yield Level(1.0)
    yield Line(found.values[shown], rise[shown], colour, width=1.6)
    estimate = found.estimate
    ends = np.array([estimate.low]), np.array([min(estimate.high, float(found.values.max()))])
    yield Points(
        np.array([estimate.value]),
        np.zeros(1),
        "#D55E00",
        "E and its interval",
        symbol="star",
        size=8,
        x_ends=ends,
        hover=[f"E = {estimate:.4g}"],
    )


def extrapolation(study: StudyAnalysis) -> Chart:
    """Fitted below a budget, predicted above it: the error against how far, for every cut."""
    panels = []
    for name, part in study.architectures.items():
        marks: list[Mark] = [Level(0.0)]
        for index, cut in enumerate(part.cuts):
            marks += _cut_marks(cut, part, index)
        if not part.cuts:
            continue
        x = Axis("held-out compute over the cut (×)", log=True)
        y = Axis("predicted over measured loss − 1 (%)")
        panels.append(Panel(x, y, tuple(marks), name))
    return Chart("holdout", "Hold-out over every cut", tuple(panels), share_y=True)


def _cut_marks(cut: Cut, part: ArchitectureStudy, index: int) -> Iterator[Mark]:
    colour, symbol = category(index)
    position = {int(row): at for at, row in enumerate(part.table.frame.index)}
    held = [position[row] for row in cut.rows]
    reach = part.table.flops[held] / cut.flops
    errors, half = 100 * np.array(cut.errors), 100 * np.array(cut.half_widths)
    # Runs of one budget stand side by side, in order of size.
    order = np.argsort(np.argsort(part.table.column("params")[held]))
    aside = np.exp(JITTER * (order / max(len(order) - 1, 1) - 0.5))
    yield Points(
        reach * aside,
        errors,
        colour,
        f"fitted to {cut.budgets} budget{'s' if cut.budgets > 1 else ''}",
        symbol=symbol,
        size=3.6,
        y_ends=(errors - half, errors + half),
        hover=[f"row {row}: {error:+.2f} %" for row, error in zip(cut.rows, errors, strict=True)],
    )
