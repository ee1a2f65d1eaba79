"""The laws of a study's table, fitted once for each content of it, kept as JSON and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.atomic import write_text
from pipeline.config import Study, fingerprint
from pipeline.fit_record import law_path
from pipeline.plan import Plan
from pipeline.records import curves

SMOOTHING = 10
ANALYSIS = Path(__file__).resolve().parent.parent / "analysis"


def fitted(study: Study, frame: pd.DataFrame) -> dict[str, Any] | None:
    """What ``fit_table`` made of this very table, if it did: ``{key, analysis}``."""
    try:
        document: dict[str, Any] = json.loads((study.folder / "fits" / "study.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return document if document.get("key") == _key(study, frame) else None


def fit_table(study: Study, plan: Plan, frame: pd.DataFrame) -> dict[str, Any]:
    """Fit both approaches to every architecture; write ``fits``, ``plots`` and ``report.html``."""
    from analysis.plots import write
    from analysis.study import analyze
    from pipeline.report import write_report

    analysis = analyze(
        frame,
        sorted(study.grid.budgets),
        extrapolate=study.fit.extrapolate,
        baseline=study.fit.baseline,
        resamples=study.fit.resamples,
        seed=study.fit.seed,
    )
    points = _smoothed(curves(study, plan))
    write(analysis, study.folder / "plots", points)
    write_report(study, plan, frame, points, analysis)
    for name, architecture in analysis.architectures.items():
        if architecture.approach3 is not None:
            write_text(law_path(name, study.folder), architecture.approach3.to_json())
    document = {"key": _key(study, frame), "analysis": analysis.to_dict()}
    text = json.dumps(document, allow_nan=False, ensure_ascii=False)
    write_text(study.folder / "fits" / "study.json", text)
    return document


def _smoothed(points: pd.DataFrame) -> pd.DataFrame:
    """Training losses along the runs, each the mean of the last ``SMOOTHING`` that were logged."""
    trained = points[points["kind"] == "train"]
    losses = trained.groupby("fingerprint")["loss"]
    return trained.assign(
        loss=losses.transform(lambda x: x.rolling(SMOOTHING, min_periods=1).mean())
    )


def _key(study: Study, frame: pd.DataFrame) -> str:
    """Changes with the table, the settings of the fit and the code that fits."""
    code = [path.read_text() for path in sorted(ANALYSIS.rglob("*.py"))]
    return fingerprint([frame.to_csv(index=False), study.fit.model_dump(mode="json"), code])
