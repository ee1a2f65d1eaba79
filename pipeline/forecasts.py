"""A study's register of forecasts: frozen before their runs exist, scored after."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group

from analysis.forecast import Forecast, freeze, read_register, score, write_register
from analysis.notices import AnalysisError
from analysis.result import Fit
from pipeline.atomic import write_text
from pipeline.config import Study
from pipeline.errors import StudyError
from pipeline.fit_record import digest
from pipeline.fitted import architectures_of, fit_of
from pipeline.record import Record
from pipeline.show import number, quantity
from pipeline.tables import new_table, titled

NEAR = 0.1  # a run is a forecast's when its parameters and tokens are this near


def forecast_study(
    study: Study, flops: float | None, architecture: str | None
) -> list[dict[str, Any]]:
    """Score what can be scored, freeze what is asked, and return the register as JSON values.

    Raises:
        StudyError: the run exists already, the architecture is unknown, or there is no law.
    """
    names = architectures_of(study, architecture)
    frame = _finished(study)
    registers = {name: _read(study, name) for name in names}
    for name, register in registers.items():
        registers[name] = [_scored(forecast, _runs(frame, name)) for forecast in register]
        if flops is not None:
            made = freeze(fit_of(study, name), made=time.time(), flops=flops)
            if _measured(made, _runs(frame, name)) is not None:
                raise StudyError(f"{name} at {flops:.3g} FLOPs was trained already: no forecast")
            registers[name].append(made)
        if registers[name]:
            write_text(_path(study, name), write_register(registers[name]))
    return [
        {"architecture": name, **forecast.to_dict()}
        for name, register in registers.items()
        for forecast in register
    ]


def freeze_run(
    study: Study, architecture: str, fit: Fit, target: Mapping[str, float], flops: float
) -> dict[str, Any]:
    """Put the one run of ``study`` on its register, by the law of another; as JSON values.

    What is there already for the same run from the same law stays as it was made.

    Raises:
        StudyError: the run was trained already, or the law bounds no loss there.
    """
    register = _read(study, architecture)
    table = study.folder / "table.csv"
    for known in register:
        if known.fingerprint == fit.data.fingerprint and known.target == {**target, "flops": flops}:
            return known.to_dict()
    if table.is_file() and (pd.read_csv(table)["status"] == "finished").any():
        raise StudyError(f"{architecture} at {flops:.3g} FLOPs was trained already: no forecast")
    try:
        made = freeze(fit, made=time.time(), flops=flops, **target)
    except AnalysisError as error:
        raise StudyError(f"{architecture} at {flops:.3g} FLOPs: {error}") from None
    _path(study, architecture).parent.mkdir(parents=True, exist_ok=True)
    write_text(_path(study, architecture), write_register([*register, made]))
    return made.to_dict()


def forecast_records(register: list[dict[str, Any]]) -> Iterator[Record]:
    """What MLflow shows of each forecast: when it is frozen, and again when it is scored."""
    for entry in register:
        target, result = entry["target"], entry["score"] or {}
        yield Record(
            kind="forecast",
            name=f"forecast-{entry['architecture']}-{target['flops']:.3g}",
            fingerprint=digest(json.dumps(entry, sort_keys=True)),
            note="A loss predicted before its run existed; `measured` is what came of it.",
            tags={
                "architecture": entry["architecture"],
                "forecast": "scored" if result else "frozen",
                "law": entry["law"],
                "data": entry["fingerprint"],
            }
            | ({"inside": str(result["inside"]).lower()} if result else {}),
            params={name: f"{value:.6g}" for name, value in target.items()},
            metrics={name: entry[name] for name in ("loss", "low", "high")}
            | ({"measured": result["loss"], "error": result["error"]} if result else {}),
        )


def forecast_table(register: list[dict[str, Any]]) -> Group:
    """The register, each forecast beside what came of it."""
    columns = ["", "FLOPs", "N", "D", "forecast", "interval", "measured", "error", "inside"]
    table = new_table(columns)
    for entry in register:
        target, result = entry["target"], entry["score"] or {}
        table.add_row(
            entry["architecture"],
            f"{target['flops']:.3g}",
            *(quantity(target[name]) for name in ("params", "tokens")),
            f"{entry['loss']:.4f}",
            f"{entry['low']:.4f} to {entry['high']:.4f}",
            number(result.get("loss"), ".4f"),
            number(result.get("error"), "+.2%"),
            "yes" if result.get("inside") else "no" if result else "–",
        )
    return titled("Forecasts, frozen before their runs", table)


def _path(study: Study, architecture: str) -> Path:
    return study.folder / "forecasts" / f"{architecture}.jsonl"


def _read(study: Study, architecture: str) -> list[Forecast]:
    path = _path(study, architecture)
    return read_register(path.read_text()) if path.is_file() else []


def _finished(study: Study) -> pd.DataFrame:
    path = study.folder / "table.csv"
    if not path.is_file():
        raise StudyError(f"{path}: no table of runs; `isoflop run` makes one")
    frame = pd.read_csv(path)
    return frame[frame["status"] == "finished"]


def _runs(frame: pd.DataFrame, architecture: str) -> pd.DataFrame:
    return frame[frame["architecture"] == architecture]


def _scored(forecast: Forecast, runs: pd.DataFrame) -> Forecast:
    measured = _measured(forecast, runs)
    if forecast.score is not None or measured is None:
        return forecast
    return score(forecast, measured, scored=time.time())


def _measured(forecast: Forecast, runs: pd.DataFrame) -> float | None:
    """The held-out loss of the forecast's run: the first that is near in parameters and tokens."""
    near = runs
    for name in ("params", "tokens"):
        ratio = near[name] / forecast.target[name]
        near = near[(ratio > 1 - NEAR) & (ratio < 1 + NEAR)]
    return float(near["loss"].iloc[0]) if len(near) else None
