"""A fit as MLflow is told it: each estimate with its interval, what it rests on, what it warns of.

Everything is read from the study's folder: `fits/study.json` holds the analysis as JSON values
(`analysis.study.ArchitectureStudy.to_dict`), `fits/<architecture>.json` the law with its resamples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.record import Record

Part = Mapping[str, Any]


def fit_record(architecture: str, part: Part, folder: Path) -> Record:
    """The record of one architecture's part of an analysis."""
    law = part["approach3"] or {}
    return Record(
        kind="fit",
        name=f"fit-{architecture}",
        fingerprint=digest(json.dumps(part, sort_keys=True)),
        note=_note(architecture, part),
        tags={"architecture": architecture, "warnings": str(len(part["warnings"]))},
        params=_params(law) if law else {},
        metrics={key: float(value) for key, value in _metrics(part) if value is not None},
        artifacts=tuple(_artifacts(architecture, folder)),
    )


def law_path(architecture: str, folder: Path) -> Path:
    return folder / "fits" / f"{architecture}.json"


def law_files(architecture: str, folder: Path) -> dict[str, Path]:
    """What a registered law carries: the fit itself, and the table of runs it was fitted to."""
    files = {"fit": law_path(architecture, folder), "table": folder / "table.csv"}
    return {name: path for name, path in files.items() if path.exists()}


def law_tags(part: Part) -> dict[str, str]:
    """What tells one version of a registered law from another."""
    told = {"law": part["approach3"]["law"], "rows": str(part["approach3"]["data"]["rows"])}
    if errors := [cut["mean_error"] for cut in part.get("holdout", ())]:
        told["holdout_error"] = f"{sum(errors) / len(errors):.6g}"
    return told


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _artifacts(architecture: str, folder: Path) -> Iterator[Path]:
    yield from law_files(architecture, folder).values()
    yield from sorted((folder / "plots").glob("*.png"))


def _params(law: Part) -> dict[str, str]:
    return {
        "law": law["law"],
        "equation": law["equation"],
        "parameters_counted": law["data"]["convention"],
        "rows": str(law["data"]["rows"]),
        "interval": f"{law['level']:.0%}",
        "resampled_by": law["bootstrap"]["kind"],
    }


def _metrics(part: Part) -> Iterator[tuple[str, float | None]]:
    if law := part["approach3"]:
        yield "objective", law["objective"]
        for key in ("residual_sd", "r_squared", "condition"):
            yield key, law["diagnostics"][key]
    for name, estimate in _estimates(part):
        for key, end in (("value", ""), ("low", "_low"), ("high", "_high")):
            yield f"{name}{end}", estimate[key]


def _estimates(part: Part) -> Iterator[tuple[str, Part]]:
    if law := part["approach3"]:
        yield from _parameters(law)
        yield from law["derived"].items()
    if profiles := part["approach2"]:
        yield "approach2_a", profiles["a"]
        yield "approach2_b", profiles["b"]
    for best in part["allocations"].get("approach3", ()):
        at = f"at {best['flops']:.1e} FLOPs".replace("e+", "e")
        for name in ("params", "tokens", "loss"):
            if best[name]:
                yield f"{at}/{name}", best[name]


def _parameters(law: Part) -> Iterator[tuple[str, Part]]:
    for name, value in law["parameters"].items():
        low, high = law["intervals"][name]
        yield name, {"value": value, "low": low, "high": high}


def _note(architecture: str, part: Part) -> str:
    """Markdown, at the head of the run's page."""
    lines = [f"# The law of {architecture}", ""]
    if law := part["approach3"]:
        lines += [f"`{law['equation']}` ({law['source']}), {law['data']['rows']} runs.", ""]
        lines += _table("parameter", [*_parameters(law), *law["derived"].items()])
    for best in part["allocations"].get("approach3", ()):
        estimates = [(name, best[name]) for name in ("params", "tokens", "loss") if best[name]]
        lines += [f"Compute-optimal at {best['flops']:.3g} training FLOPs:", ""]
        lines += _table("", estimates)
    lines += [f"- **{notice['type']}**: {notice['message']}" for notice in part["warnings"]]
    return "\n".join(lines)


def _table(head: str, estimates: list[tuple[str, Part]]) -> list[str]:
    rows = [
        f"| {name} | {_number(e['value'])} | {_number(e['low'])} to {_number(e['high'])} |"
        for name, e in estimates
    ]
    return [f"| {head} | estimate | 95 % interval |", "|---|---|---|", *rows, ""]


def _number(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.4g}"
