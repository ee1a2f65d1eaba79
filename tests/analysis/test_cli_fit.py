"""The command's JSON is complete, strict, and an error is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import AnalysisError
from analysis.cli_fit import fit_csv
from analysis.hygiene import hygiene
from analysis.notices import (
    BatchAboveCritical,
    DecayUnmatched,
    LearningRateAtEdge,
    Notice,
    WarmupLong,
)

KEYS = {
    "law",
    "parameters",
    "intervals",
    "derived",
    "warnings",
    "excluded",
    "objective",
    "identifiable",
}


def test_a_csv_becomes_the_documented_json(noisy: pd.DataFrame, tmp_path: Path) -> None:
    noisy.loc[2, "loss"] = np.nan
    path = tmp_path / "runs.csv"
    noisy.rename(columns={"tokens": "D"}).to_csv(path, index=False)
    found = fit_csv(path, "chinchilla", {"tokens": "D"}, resamples=200)
    assert set(found) == KEYS
    assert found["excluded"] == [{"row": 2, "rule": "loss is not finite"}]
    assert set(found["intervals"]) == {"E", "A", "B", "alpha", "beta"}
    json.loads(json.dumps(found, allow_nan=False))


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    params = np.geomspace(1e7, 1e10, 9)
    path = tmp_path / "ray.csv"
    pd.DataFrame({"params": params, "tokens": 20 * params, "loss": 2 + 100 * params**-0.3}).to_csv(
        path, index=False
    )
    found = fit_csv(path, resamples=50)
    assert not found["identifiable"]
    assert all(ends == [None, None] for ends in found["intervals"].values())
    assert "NotIdentifiable" in [warning["type"] for warning in found["warnings"]]


@pytest.mark.parametrize(
    "text",
    [
        "params,tokens,loss\n1e9,2e10,3.0\n",
        "params,tokens\n1e9,2e10\n",
        "params,tokens,loss\n" + "1e9,2e10,nan\n" * 9,
        "params,tokens,loss\n" + "1e9,inf,2\n" * 9,
        "params,tokens,loss\n" + "0,2e10,2\n" * 9,
        "params,tokens,loss\n" + "1e9,2e10,-2\n" * 9,
        "params,tokens,loss\n1e9,2e10,high\n",
        "params,tokens,loss\n" + "1e9,2e10,3.0\n" * 20,
        "",
    ],
)
def test_a_hostile_table_is_one_clear_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(AnalysisError) as error:
        fit_csv(path, resamples=10)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) > 20


def test_an_unknown_law_is_one_too(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="no law is called 'kaplam'"):
        fit_csv(tmp_path / "runs.csv", "kaplam")


def test_doubtful_habits_are_told_run_by_run() -> None:
    frame = pd.DataFrame(
        {
            "tokens": [1e9, 1e9, 1e9],
            "loss": [3.0, 3.0, 3.0],
            "warmup_tokens": [1e7, 9e8, 1e7],
            "decay_tokens": [1e9, 1e9, 5e9],
            "batch_tokens": [1e5, 1e5, 1e7],
            "learning_rate": [0.01, 0.1, 0.01],
            "learning_rate_low": 0.001,
            "learning_rate_high": 0.1,
        }
    )
    told = {type(notice): notice.rows for notice in hygiene(frame)}
    assert told == {
        WarmupLong: (1,),
        DecayUnmatched: (2,),
        BatchAboveCritical: (2,),
        LearningRateAtEdge: (1,),
    }
    assert hygiene(frame[["tokens", "loss"]]) == []


def test_notices_survive_json() -> None:
    for kind in Notice.kinds.values():
        notice = kind("something is the matter", (3, 1))
        assert Notice.from_dict(json.loads(json.dumps(notice.to_dict()))) == notice
