"""The charts of a study, as the papers draw them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.compare import gain_at_budget
from analysis.envelope import lower_hull
from analysis.estimate import Estimate
from analysis.laws.base import Array, Values
from analysis.plots.chart import (
    INK,
    Axis,
    Band,
    Chart,
    ColourScale,
    Level,
    Line,
    Mark,
    Panel,
    Points,
    Span,
    category,
    log_shade,
    number,
    power,
)
from analysis.plots.frame import framed
from analysis.profiles import Profile
from analysis.result import Fit
from analysis.study import ArchitectureStudy, StudyAnalysis
from analysis.table import Table

FLOPS = Axis("training compute C (FLOPs)", log=True, powers=True)
PARAMS = Axis("parameters N", log=True)
LOSS = Axis("loss L (nats/token)", log=True)
LABELLED_BUDGETS = 8
"""With more budgets than this a colour bar takes the legend's place."""
POINTS_OF_A_LINE = 60


def loss_curves(study: StudyAnalysis, curves: pd.DataFrame | None) -> Chart:
    """Loss against compute for every run, and the envelope below them all (Approach 1).

    `curves` has a row per point of a run: run, flops, loss.
    """
    sizes = study.table.column("params")
    scale = ColourScale("parameters N", float(sizes.min()), float(sizes.max()))
    panels = []
    for name, part in study.architectures.items():
        points = _points_of(part, curves)
        size = dict(zip(_run_names(part.table), part.table.column("params"), strict=True))
        marks: list[Mark] = []
        for run, of_run in points.groupby("run", sort=False):
            colour = log_shade(size.get(str(run), scale.low), scale)
            x, y = of_run["flops"].to_numpy(float), of_run["loss"].to_numpy(float)
            hover = f"{run}: N = {number(size.get(str(run), np.nan), 3)}"
            if len(x) > 1:
                marks.append(Line(x, y, colour, width=0.8, opacity=0.85, hover=hover))
            marks.append(Points(x[-1:], y[-1:], colour, size=2.5, hover=(hover,)))
        lowest = lower_hull(points["flops"].to_numpy(float), points["loss"].to_numpy(float))
        marks.append(Line(*lowest, "#D55E00", "envelope of the runs", width=1.8))
        if part.approach3 and part.approach3.identifiable:
            own = part.table.flops
            flops = np.geomspace(own.min(), own.max(), POINTS_OF_A_LINE)
            law = part.approach3.frontier(flops)[2]
            marks.append(Line(flops, law, INK, "fitted frontier", width=1.2, dash="dash"))
        panels.append(Panel(FLOPS, LOSS, tuple(marks), name))
    return Chart("loss_curves", "Loss over compute", tuple(panels), scale, share_y=True)


def isoflop_profiles(study: StudyAnalysis) -> Chart:
    """Loss against size at each budget, the parabola, and its vertex with its interval."""
    scale = ColourScale(FLOPS.label, study.budgets[0], study.budgets[-1], powers=True)
    labelled = len(study.budgets) <= LABELLED_BUDGETS
    panels = []
    for name, part in study.architectures.items():
        marks: list[Mark] = []
        for profile in part.approach2.profiles if part.approach2 else ():
            marks += _profile(profile, log_shade(profile.flops, scale), labelled)
        vertices = [p for p in part.approach2.profiles if p.vertex] if part.approach2 else []
        if vertices:
            line = Line(
                np.array([p.vertex.value for p in vertices if p.vertex]),
                np.array([p.minimum.value for p in vertices if p.minimum]),
                INK,
                width=0.8,
                dash="dot",
            )
            marks.append(line)
        if not part.approach2:
            sizes, losses = part.table.column("params"), part.table.column("loss")
            colours = [log_shade(c, scale) for c in part.table.flops]
            marks.append(Points(sizes, losses, colours, "no profile", filled=False, size=3.6))
        panels.append(Panel(PARAMS, LOSS, tuple(marks), name))
        bar = None if labelled else scale
    return Chart("isoflop_profiles", "IsoFLOP profiles", tuple(panels), bar, share_y=True)


def _profile(profile: Profile, colour: str, labelled: bool) -> Iterator[Mark]:
    budget = f"{power(profile.flops)} FLOPs"
    hover = [
        f"N = {number(n, 3)}, L = {v:.4f}"
        for n, v in zip(profile.params, profile.losses, strict=True)
    ]
    kept = profile.vertex is not None
    label = budget if labelled else None
    yield Points(profile.params, profile.losses, colour, label, filled=kept, size=3.6, hover=hover)
    sizes = np.geomspace(profile.params.min(), profile.params.max(), POINTS_OF_A_LINE)
    yield Line(sizes, profile.curve(sizes), colour, width=1.2, dash="solid" if kept else "dot")
    if profile.vertex and profile.minimum:
        yield Points(
            np.array([profile.vertex.value]),
            np.array([profile.minimum.value]),
            "#D55E00",
            "vertex, 95 % interval",
            symbol="star",
            size=8,
            x_ends=_near(_ends([profile.vertex]), profile.params),
            hover=[f"N* = {profile.vertex:.3g} at {budget}"],
        )


def _near(ends: tuple[Array, Array], params: Array) -> tuple[Array, Array]:
    """An interval cut at twice beyond the points, where a profile says nothing more."""
    low, high = params.min() / 2, params.max() * 2
    return np.clip(ends[0], low, high), np.clip(ends[1], low, high)


def allocation(study: StudyAnalysis) -> Chart:
    """N*, D* and D*/N* against compute: the fitted surface's with its band, and the vertices'."""
    flops = _span_of(study)
    panels = []
    for title, axis, pick in (
        ("optimal size", Axis("parameters N*", log=True), "params"),
        ("optimal data", Axis("tokens D*", log=True), "tokens"),
        ("data per parameter", Axis("tokens per parameter D*/N*", log=True), "tokens_per_param"),
    ):
        marks: list[Mark] = [_beyond(study)]
        for index, (name, part) in enumerate(study.architectures.items()):
            marks += _allocation(part, name, index, pick, flops)
        panels.append(framed(Panel(FLOPS, axis, tuple(marks), title)))
    return Chart("allocation", "Compute-optimal allocation", tuple(panels))


def _allocation(
    part: ArchitectureStudy, name: str, index: int, pick: str, flops: Array
) -> Iterator[Mark]:
    colour, symbol = category(index)
    if part.approach3 and part.approach3.identifiable:
        value, low, high = _frontier(part.approach3, pick, flops)
        yield Band(flops, low, high, colour)
        yield Line(flops, value, colour, f"{name}: fitted surface")
    if part.approach2:
        found = [p for p in part.approach2.profiles if p.vertex]
        vertices = [_vertex(part, p, pick) for p in found]
        at = np.array([p.flops for p in found]) * (1 + 0.05 * index)
        yield Points(
            at,
            np.array([e.value for e in vertices]),
            colour,
            f"{name}: profile vertices",
            symbol=symbol,
            size=4.5,
            y_ends=_ends(vertices),
            hover=[
                f"{name}, {power(p.flops)} FLOPs: {e}" for p, e in zip(found, vertices, strict=True)
            ],
        )


def _frontier(fitted: Fit, pick: str, flops: Array) -> tuple[Array, Array, Array]:
    """A quantity along the frontier, and both ends of its interval."""

    def quantity(values: Values) -> Array:
        params, tokens, loss = fitted.frontier(flops, values)
        picked = {"params": params, "tokens": tokens, "loss": loss}
        return tokens / params if pick == "tokens_per_param" else picked[pick]

    low, high = fitted.ends(quantity(fitted.samples))
    return quantity(fitted.values), low, high


def _vertex(part: ArchitectureStudy, profile: Profile, pick: str) -> Estimate:
    assert part.approach2
    assert profile.vertex
    ends = np.array([profile.vertex.value, profile.vertex.low, profile.vertex.high])
    if pick == "params":
        return profile.vertex
    tokens = part.approach2.rule.tokens(profile.flops, ends)
    value, high, low = tokens if pick == "tokens" else tokens / ends
    return Estimate(float(value), float(low), float(high))


def residuals(study: StudyAnalysis) -> Chart:
    """What the fitted surface leaves unexplained, against size, tokens and compute."""
    panels = []
    for axis, column in (
        (PARAMS, "params"),
        (Axis("tokens D", log=True), "tokens"),
        (FLOPS, "flops"),
    ):
        marks: list[Mark] = [Level(0.0)]
        for index, (name, part) in enumerate(study.architectures.items()):
            if not part.approach3:
                continue
            colour, symbol = category(index)
            frame, d = part.table.frame, part.approach3.diagnostics
            x = part.table.flops if column == "flops" else part.table.column(column)
            left = 100 * np.expm1(np.array(d.residuals))
            label = f"{name} (sd {d.residual_sd:.1%})"
            hover = [
                f"row {row}: {value:+.2f} %" for row, value in zip(frame.index, left, strict=True)
            ]
            marks.append(Points(x, left, colour, label, symbol, size=3.6, hover=hover))
        panels.append(Panel(axis, Axis("measured over fitted loss − 1 (%)"), tuple(marks)))
    return Chart("residuals", "Residuals of the fitted surface", tuple(panels), share_y=True)


def comparison(study: StudyAnalysis) -> Chart:
    """Frontiers of the architectures, and the compute each saves against the baseline."""
    flops = _span_of(study)
    at_gains = np.append(flops[:-1:3], flops[-1])
    frontiers: list[Mark] = [_beyond(study)]
    gains: list[Mark] = [_beyond(study), Level(1.0, study.baseline)]
    base = study.architectures[study.baseline].approach3
    for index, (name, part) in enumerate(study.architectures.items()):
        colour, symbol = category(index)
        law = part.approach3
        if law and law.identifiable:
            value, low, high = _frontier(law, "loss", flops)
            frontiers.append(Band(flops, low, high, colour))
            frontiers.append(Line(flops, value, colour, name))
        if part.approach2:
            found = [(p.flops, p.minimum) for p in part.approach2.profiles if p.minimum]
            at, depth = np.array([c for c, _ in found]), [m for _, m in found]
            values = np.array([m.value for m in depth])
            frontiers.append(Points(at, values, colour, symbol=symbol, y_ends=_ends(depth)))
        if law and base and name != study.baseline and law.identifiable and base.identifiable:
            over = [gain_at_budget(law, base, float(c)).gain for c in at_gains]
            gains.append(Band(at_gains, *_ends(over), colour))
            gains.append(Line(at_gains, np.array([e.value for e in over]), colour))
    gain = Axis(f"compute gain over {study.baseline} (×)", log=True)
    return Chart(
        "architectures",
        "Architectures compared",
        (
            framed(Panel(FLOPS, Axis("optimal loss L* (nats/token)", log=True), tuple(frontiers))),
            framed(Panel(FLOPS, gain, tuple(gains))),
        ),
    )


def _run_names(table: Table) -> list[str]:
    if table.has("run"):
        return [str(label) for label in table.labels("run")]
    return [f"row {row}" for row in table.frame.index]


def _points_of(part: ArchitectureStudy, curves: pd.DataFrame | None) -> pd.DataFrame:
    final = pd.DataFrame({"flops": part.table.flops, "loss": part.table.column("loss")})
    final["run"] = _run_names(part.table)
    if curves is None:
        return final
    mine = curves[curves["run"].astype(str).isin(final["run"])]
    return pd.concat([mine[["run", "flops", "loss"]], final]).sort_values("flops", kind="stable")


def _span_of(study: StudyAnalysis) -> Array:
    return np.geomspace(float(study.table.flops.min()), study.targets[-1], POINTS_OF_A_LINE)


def _beyond(study: StudyAnalysis) -> Span:
    return Span(float(study.table.flops.max()), study.targets[-1], "extrapolated")


def _ends(estimates: list[Estimate]) -> tuple[Array, Array]:
    return np.array([e.low for e in estimates]), np.array([e.high for e in estimates])
