"""Forecasts are frozen before their runs, scored once after them, and kept with the study."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.parametric import fit
from pipeline.config import Study
from pipeline.errors import StudyError
from pipeline.forecasts import forecast_records, forecast_study
from pipeline.publish import send
from pipeline.tracking import Tracker


def loss(params, tokens):
    return 1.7 + 60 / params**0.37 + 300 / tokens**0.34


@pytest.fixture
def study(tmp_path) -> Study:
    made = Study.model_validate(
        {
            "name": "tiny",
            "corpus": {"name": "here", "source": {"kind": "code", "root": "stdlib"}},
            "tokenizer": {"kind": "bpe", "vocab_size": 1024},
            "architectures": {"dense": {"recipe": {"pattern": "attention+mlp"}}},
            "grid": {"type": "isoflop", "budgets": [1e11]},
            "rule": {"name": "step_law"},
            "output": str(tmp_path),
        }
    )
    rng = np.random.default_rng(0)
    grid = pd.DataFrame(
        [(n, d) for n in np.geomspace(1e4, 1e6, 6) for d in np.geomspace(1e5, 1e8, 6)],
        columns=["params", "tokens"],
    )
    noise = np.exp(rng.normal(0, 0.003, len(grid)))
    frame = grid.assign(
        loss=loss(grid["params"], grid["tokens"]) * noise, architecture="dense", status="finished"
    )
    (made.folder / "fits").mkdir(parents=True)
    (made.folder / "fits" / "dense.json").write_text(fit(frame, resamples=100).to_json())
    frame.to_csv(made.folder / "table.csv", index=False)
    return made


def finish(study: Study, params: float, tokens: float) -> None:
    path = study.folder / "table.csv"
    run = {
        "params": params,
        "tokens": tokens,
        "loss": loss(params, tokens),
        "architecture": "dense",
        "status": "finished",
    }
    pd.concat([pd.read_csv(path), pd.DataFrame([run])]).to_csv(path, index=False)


def test_a_forecast_is_frozen_then_scored_once_by_its_run(study):
    [frozen] = forecast_study(study, 3e16, None)
    assert frozen["score"] is None
    assert frozen["low"] < frozen["loss"] < frozen["high"]
    finish(study, frozen["target"]["params"] * 1.02, frozen["target"]["tokens"] * 0.98)
    [scored] = forecast_study(study, None, None)
    assert scored["score"]["inside"]
    assert abs(scored["score"]["error"]) < 0.02
    assert {**scored, "score": None} == frozen
    assert forecast_study(study, None, None) == [scored]


def test_what_was_trained_is_no_forecast(study):
    [frozen] = forecast_study(study, 3e16, None)
    finish(study, frozen["target"]["params"], frozen["target"]["tokens"])
    with pytest.raises(StudyError, match="trained already"):
        forecast_study(study, 3e16, "dense")


def test_an_altered_register_is_refused(study):
    forecast_study(study, 3e16, None)
    path = study.folder / "forecasts" / "dense.jsonl"
    path.write_text(path.read_text().replace('"level": 0.95', '"level": 0.99'))
    with pytest.raises(ValueError, match="altered"):
        forecast_study(study, None, None)


def test_an_unknown_architecture_is_named(study):
    with pytest.raises(StudyError, match="given 'dens', allowed: dense; did you mean 'dense'"):
        forecast_study(study, 1e12, "dens")


def test_mlflow_shows_each_forecast_and_what_came_of_it(study):
    told: list[str] = []

    def show() -> list[Any]:
        tracker = Tracker(None, study.folder, study.name)
        send(tracker, forecast_records(forecast_study(study, None, None)), told.append)
        runs = tracker.client.search_runs([tracker.experiment_id], "tags.kind = 'forecast'")
        return sorted(runs, key=lambda run: run.data.tags["forecast"])

    [entry] = forecast_study(study, 3e16, None)
    [frozen] = show()
    assert frozen.data.tags["forecast"] == "frozen"
    assert frozen.data.metrics == {name: entry[name] for name in ("loss", "low", "high")}
    finish(study, entry["target"]["params"], entry["target"]["tokens"])
    assert [run.data.tags["forecast"] for run in show()] == ["frozen", "scored"]
    *_, scored = show()
    assert abs(scored.data.metrics["error"]) < 0.02
    assert scored.data.tags["inside"] == "true"
    assert not told
