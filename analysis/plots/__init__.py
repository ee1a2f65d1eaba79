"""Pictures of an analysis: the same prepared data drawn by matplotlib and by plotly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from analysis.plots.chart import Chart
    from analysis.study import StudyAnalysis


def charts_of(study: StudyAnalysis, curves: pd.DataFrame | None = None) -> list[Chart]:
    """Every chart that the study's data allow; `curves` holds the runs' points along training."""
    from analysis.plots import charts, diagnostics

    drawn = [
        charts.loss_curves(study, curves),
        charts.isoflop_profiles(study),
        charts.allocation(study),
        charts.residuals(study),
        charts.comparison(study),
        diagnostics.surface(study),
        diagnostics.floor_profile(study),
        diagnostics.extrapolation(study),
    ]
    return [chart for chart in drawn if chart.panels]


def write(
    study: StudyAnalysis,
    folder: Path | str,
    curves: pd.DataFrame | None = None,
    formats: tuple[str, ...] = ("png", "html"),
) -> list[Path]:
    """Write every chart in every format (png, svg, pdf, html) and return the paths.

    `curves`: columns run, flops, loss, a row for each point of a run.
    """
    from analysis.plots import interactive, static

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        (interactive if suffix == "html" else static).save(chart, folder / f"{chart.name}.{suffix}")
        for chart in charts_of(study, curves)
        for suffix in formats
    ]
