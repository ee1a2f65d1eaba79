"""The laws of a study's table, fitted once for each content of it, kept as JSON and plots.

Every study gets the surface law of each architecture and its profiles; its type may add laws of all
variants of a family together (repeated data, experts), a rule (probes) and what trunks cost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.atomic import write_text
from pipeline.config import Study, fingerprint
from pipeline.fit_record import law_path
from pipeline.grids import LadderGrid, ProbeGrid, RepeatsGrid
from pipeline.plan import Plan
from pipeline.records import curves

SMOOTHING = 10
FRESH = 1.0001
"""Epochs up to which every token counts as seen once: runs are whole steps."""
ANALYSIS = Path(__file__).resolve().parent.parent / "analysis"


def fitted(study: Study, frame: pd.DataFrame) -> dict[str, Any] | None:
    """What ``fit_table`` made of this very table, if it did."""
    try:
        document: dict[str, Any] = json.loads((study.folder / "fits" / "study.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return document if document.get("key") == _key(study, frame) else None


def fit_table(study: Study, plan: Plan, frame: pd.DataFrame) -> dict[str, Any]:
    """Fit all that the study's type asks for; write ``fits``, ``plots`` and ``report.html``.

    Returns the document that is kept: ``{key, analysis, laws, refused, trunks, rule}``.
    """
    from analysis.plots import write
    from analysis.study import analyze
    from pipeline.report import write_report

    judged = surface_runs(study, frame)
    analysis = analyze(
        judged,
        study.grid.targets or [float(judged["flops"].max())],
        extrapolate=study.fit.extrapolate,
        baseline=study.fit.baseline,
        resamples=study.fit.resamples,
        seed=study.fit.seed,
    )
    points = _smoothed(curves(study, plan))
    found = by_type(study, plan, frame)
    write(analysis, study.folder / "plots", points)
    write_report(study, plan, frame, judged, points, analysis, found)
    laws = {name: part.approach3 for name, part in analysis.architectures.items()}
    for name, law in laws.items():
        if law is not None:
            write_text(law_path(name, study.folder), law.to_json())
    of_families = [f"{family}.{law}" for family, known in found["laws"].items() for law in known]
    _forget(study, [*(name for name, law in laws.items() if law), *of_families])
    document = {"key": _key(study, frame), "analysis": analysis.to_dict(), **found}
    text = json.dumps(document, allow_nan=False, ensure_ascii=False)
    write_text(study.folder / "fits" / "study.json", text)
    return document


def _forget(study: Study, laws: Sequence[str]) -> None:
    """Remove earlier laws than these: nothing is predicted by what the runs no longer tell."""
    for path in (study.folder / "fits").glob("*.json"):
        if path.stem not in (*laws, "study"):
            path.unlink()


def by_type(study: Study, plan: Plan, frame: pd.DataFrame) -> dict[str, Any]:
    """What the study's type adds: ``{laws, refused, trunks, rule}``."""
    runs = frame[frame["role"] == "run"]
    laws, refused = family_laws(study, runs)
    return {
        "laws": laws,
        "refused": refused,
        "trunks": trunks(plan, frame) if isinstance(study.grid, LadderGrid) else None,
        "rule": _rule(study, runs) if isinstance(study.grid, ProbeGrid) else None,
    }


def surface_runs(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """The runs that the law of fresh data and good settings is about."""
    runs = frame[frame["role"] == "run"]
    if isinstance(study.grid, RepeatsGrid):
        return runs[runs["epochs"] <= FRESH].reset_index(drop=True)
    if isinstance(study.grid, ProbeGrid):
        from pipeline.probes import best_runs

        return best_runs(runs)
    return runs.reset_index(drop=True)


def family_laws(
    study: Study, runs: pd.DataFrame
) -> tuple[dict[str, dict[str, Any]], list[dict[str, str]]]:
    """Laws of the grid's type over all variants of each family, and those that are refused."""
    from analysis.laws.registry import get
    from analysis.notices import AnalysisError
    from analysis.parametric import fit

    found: dict[str, dict[str, Any]] = {}
    refused: list[dict[str, str]] = []
    for family, rows in runs.groupby("family", sort=False):
        for name, columns in study.grid.laws.items():
            needs = [columns.get(column, column) for column in get(name).columns]
            if not set(needs) <= set(rows.columns) or rows[needs].isna().any(axis=None):
                continue  # an architecture without experts in a grid of experts
            own = rows.drop(columns=["architecture"])
            try:
                law = fit(
                    own,
                    name,
                    columns=columns,
                    resamples=study.fit.resamples,
                    seed=study.fit.seed,
                    convention=columns.get("params", "params"),
                )
            except AnalysisError as error:
                refused.append({"family": str(family), "law": name, "message": str(error)})
                continue
            path = study.folder / "fits" / f"{family}.{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, law.to_json())
            fields = law.to_dict()
            del fields["bootstrap"]["samples"]
            found.setdefault(str(family), {})[name] = fields
    return found, refused


def trunks(plan: Plan, frame: pd.DataFrame) -> dict[str, Any]:
    """FLOPs that trunks saved, and the loss of each branch over that of its size's control."""
    finished = frame[frame["status"] == "finished"]
    same = ["architecture", "params", "tokens", "seed"]
    controls = finished[finished["role"] == "control"][[*same, "loss"]]
    pairs = finished[finished["role"] == "run"].merge(controls, on=same, suffixes=("", "_cosine"))
    columns = [*same, "loss", "loss_cosine"]
    rows = pairs[columns].to_dict("records")
    return {
        "saved_flops": plan.saved,
        "spent_flops": plan.flops,
        "control_flops": float(frame[frame["role"] == "control"]["own_flops"].sum()),
        "controls": [row | {"cost": row["loss"] - row["loss_cosine"]} for row in rows],
    }


def _rule(study: Study, runs: pd.DataFrame) -> dict[str, Any] | None:
    from pipeline.probes import measured_rule, write_rule

    rule = measured_rule(runs)
    if rule is not None:
        write_rule(study.folder, rule)
    return rule


def _smoothed(points: pd.DataFrame) -> pd.DataFrame:
    """Training losses along the runs, each the mean of the last ``SMOOTHING`` that were logged."""
    trained = points[points["kind"] == "train"]
    losses = trained.groupby("fingerprint")["loss"]
    return trained.assign(
        loss=losses.transform(lambda x: x.rolling(SMOOTHING, min_periods=1).mean())
    )


def _key(study: Study, frame: pd.DataFrame) -> str:
    """Changes with all that the laws and the report tell of: the table, the study, its forecasts;
    and with the code that fits."""
    code = [path.read_text() for path in sorted(ANALYSIS.rglob("*.py"))]
    registers = [path.read_text() for path in sorted(study.folder.glob("forecasts/*.jsonl"))]
    return fingerprint([frame.to_csv(index=False), study.fingerprint(), registers, code])
