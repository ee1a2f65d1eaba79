"""A table is checked before anything is fitted: nothing hostile passes, nothing is silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import Table, TableError, analyze, fit
from analysis.notices import Diverged, Unfinished


@pytest.mark.parametrize(
    ("value", "rule"),
    [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "not positive"), (-1.0, "not positive")],
)
@pytest.mark.parametrize("column", ["params", "tokens", "loss"])
def test_a_bad_number_excludes_its_row_by_a_named_rule(
    noisy: pd.DataFrame, column: str, value: float, rule: str
) -> None:
    noisy.loc[7, column] = value
    table = Table.read(noisy.drop(columns="flops"))
    assert [(e.row, e.rule) for e in table.excluded] == [(7, f"{column} is {rule}")]
    assert 7 not in table.rows


def test_text_among_numbers_names_column_and_row(noisy: pd.DataFrame) -> None:
    noisy["loss"] = noisy["loss"].astype(object)
    noisy.loc[4, "loss"] = "oops"
    with pytest.raises(TableError, match=r"'loss' holds text.*row 4: 'oops'"):
        fit(noisy)


def test_a_missing_column_names_the_nearest(noisy: pd.DataFrame) -> None:
    with pytest.raises(TableError, match=r"no column 'tokens' \(nearest: 'token'\)"):
        fit(noisy.rename(columns={"tokens": "token"}))


def test_columns_may_be_renamed_and_a_wrong_name_is_refused(noisy: pd.DataFrame) -> None:
    renamed = noisy.rename(columns={"tokens": "D", "params": "N"})
    table = Table.read(renamed, {"tokens": "D", "params": "N"})
    assert np.array_equal(table.column("tokens"), Table.read(noisy).column("tokens"))
    with pytest.raises(TableError, match=r"no column 'd' to use as tokens"):
        Table.read(renamed, {"tokens": "d"})
    with pytest.raises(TableError, match=r"no standard column is called 'token'"):
        Table.read(renamed, {"token": "D"})


def test_an_empty_table_and_one_of_bad_rows_say_why(noisy: pd.DataFrame) -> None:
    with pytest.raises(TableError, match="no rows"):
        Table.read(noisy.iloc[:0])
    with pytest.raises(TableError, match=r"loss is not positive \(rows 0, 1, 2"):
        Table.read(noisy.assign(loss=-1.0))


def test_runs_that_diverged_or_did_not_finish_are_left_out_and_named(noisy: pd.DataFrame) -> None:
    noisy["status"] = "finished"
    noisy.loc[3, "status"] = "diverged"
    noisy.loc[5, "status"] = "failed"
    table = Table.read(noisy)
    assert {type(n): n.rows for n in table.notices} == {Diverged: (3,), Unfinished: (5,)}


def test_a_loss_far_above_a_shorter_run_of_the_same_size_counts_as_diverged() -> None:
    tokens = np.array([1e9, 2e9, 4e9])
    frame = pd.DataFrame({"params": 1e8, "tokens": tokens, "loss": [3.0, 6.0, 2.8]})
    assert [e.row for e in Table.read(frame).excluded] == [1]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n3", "params,tokens,loss\n", "\x00\x01"])
def test_a_file_that_is_no_table_is_a_table_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(TableError):
        Table.read(path)
    with pytest.raises(TableError, match="no table at"):
        Table.read(tmp_path / "absent.csv")


def test_the_fingerprint_is_of_the_numbers_not_of_their_order(noisy: pd.DataFrame) -> None:
    shuffled = Table.read(noisy.sample(frac=1, random_state=0))
    assert shuffled.fingerprint == Table.read(noisy).fingerprint
    noisy.loc[0, "loss"] *= 1 + 1e-12
    assert shuffled.fingerprint != Table.read(noisy).fingerprint


def test_one_row_is_an_answer_about_one_row(noisy: pd.DataFrame) -> None:
    study = analyze(noisy.iloc[:1], resamples=10)
    (part,) = study.architectures.values()
    assert part.approach2 is None
    assert part.approach3 is None
    assert {type(n).__name__ for n in part.notices} == {"TooFewPoints"}
