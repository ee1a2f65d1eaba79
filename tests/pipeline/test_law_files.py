"""Laws of any table are kept, and predict, compare and report as a study's do."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import StudyError
from pipeline.law_files import laws_at, read_law, save_table


def table(path: Path, saving: float = 1.0, **columns: object) -> Path:
    """Runs of a law that needs ``saving`` times less compute than the plain one for any loss."""
    budget = np.repeat(np.geomspace(1e17, 1e20, 4), 7)
    params = np.tile(np.geomspace(1 / 6, 6, 7), 4) * np.sqrt(budget / 120)
    tokens, share = budget / 6 / params, np.sqrt(saving)
    loss = 1.8 + 477.8 / (share * params) ** 0.35 + 2143.4 / (share * tokens) ** 0.37
    frame = pd.DataFrame({"params": params, "D": tokens, "flops": budget, "loss": loss} | columns)
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Drawing takes seconds."""
    monkeypatch.setattr("pipeline.law_files._draw", lambda *_: None)


def fit(run, csv: Path, folder: Path, *options: object) -> tuple[int, str, str]:
    given = ("--column", "tokens=D", "--resamples", 50, "--save", folder)
    return run("fit", csv, *given, *options)


def test_a_saved_table_is_drawn_and_reported(run, tmp_path, monkeypatch):
    for drawn in ("static", "interactive"):
        monkeypatch.setattr(f"analysis.plots.{drawn}.save", lambda chart, path: path.touch())
    code, out, _ = fit(run, table(tmp_path / "a.csv"), tmp_path / "laws")
    assert (code, f"isoflop predict {tmp_path / 'laws'}" in out) == (0, True)
    assert (tmp_path / "laws" / "plots" / "isoflop_profiles.png").is_file()
    page = (tmp_path / "laws" / "report.html").read_text()
    for told in ("Compute-optimal allocation", "28</b><span>of 28 rows", 'id="isoflop_profiles"'):
        assert told in page


def test_saved_tables_predict_and_compare(run, tmp_path, undrawn):
    better, plain = tmp_path / "better", tmp_path / "plain"
    fit(run, table(tmp_path / "a.csv", 2.0), better)
    _, out, _ = fit(run, table(tmp_path / "b.csv"), plain, "--json")
    assert json.loads(out)["laws"]["model"]["identifiable"]

    _, out, _ = run("predict", better, "--flops", 1e22, "--json")
    [found] = json.loads(out)
    fitted = read_law(better / "fits" / "model.json")
    assert found["allocation"]["params"] == fitted.allocate(1e22).params.to_dict()
    for given in (better, better / "fits" / "model.json"):
        code, out, _ = run("predict", given, "--flops", 1e22)
        assert (code, "N*" in out) == (0, True)

    _, out, err = run("compare", better, plain / "fits" / "model.json", "--json")
    compared = json.loads(out)
    assert [gain["value"] for gain in compared["gains"]] == pytest.approx([2.0] * 3, rel=1e-3)
    assert "only the laws are known" in compared["remarks"][0]
    assert err == ""


def test_each_architecture_of_a_table_has_a_law_of_its_own(run, tmp_path, undrawn):
    kinds = np.where(np.arange(28) % 2, "moe", "dense")
    fit(run, table(tmp_path / "a.csv", architecture=kinds), tmp_path / "laws")
    assert set(laws_at(str(tmp_path / "laws")).fits) == {"dense", "moe"}
    code, _, err = run("predict", tmp_path / "laws", "--flops", 1e22, "-a", "mo")
    assert (code, "did you mean 'moe'" in err) == (2, True)


def test_a_law_without_an_optimum_is_named_beside_those_that_have_one(run, tmp_path, undrawn):
    folder = tmp_path / "laws"
    fit(run, table(tmp_path / "a.csv"), folder)
    law = read_law(folder / "fits" / "model.json").to_dict()
    few = {"type": "NotIdentifiable", "message": "all runs lie on one line", "rows": []}
    (folder / "fits" / "line.json").write_text(json.dumps(law | {"warnings": [few]}))
    _, out, _ = run("predict", folder, "--flops", 1e22, "--json")
    assert ["refused" in one for one in json.loads(out)] == [True, False]
    code, out, _ = run("predict", folder, "--flops", 1e22)
    assert (code, "line: all runs lie on one line" in out) == (0, True)
    code, _, err = run("predict", folder, "--flops", 1e22, "-a", "line")
    assert (code, "laws/line: all runs lie on one line" in err) == (2, True)


def test_laws_that_tell_nothing_of_compute_are_not_compared(run, tmp_path, undrawn):
    csv = tmp_path / "rates.csv"
    params, tokens = np.repeat([1e6, 1e7, 1e8], 4), np.tile([1e8, 1e9, 1e10, 1e11], 3)
    rate = 4 * params**-0.5 * tokens**0.1 * np.linspace(0.9, 1.1, 12)
    frame = pd.DataFrame({"params": params, "tokens": tokens, "learning_rate": rate})
    frame.to_csv(csv, index=False)
    folder = tmp_path / "rates"
    code, _, err = run(
        "fit", csv, "--law", "learning-rate", "--resamples", 0, "--save", folder, "--json"
    )
    assert (code, err) == (0, "")
    code, _, err = run("predict", folder, "--flops", 1e20)
    assert (code, "no compute-optimal allocation" in err) == (2, True)
    code, out, err = run("compare", folder, folder, "--json")
    assert code == 0
    assert json.loads(out)["gains"] == []
    assert "no compute-optimal allocation" in json.loads(out)["remarks"][-1]


def test_a_saved_table_is_fitted_again_to_the_same_law(run, tmp_path, undrawn):
    fit(run, table(tmp_path / "a.csv"), tmp_path / "one")
    kept = tmp_path / "one" / "table.csv"
    run("fit", kept, "--resamples", 50, "--save", tmp_path / "two")
    one, two = (read_law(tmp_path / name / "fits" / "model.json") for name in ("one", "two"))
    assert one.to_dict() | {"data": None} == two.to_dict() | {"data": None}
    assert one.data.fingerprint == two.data.fingerprint


def test_other_laws_are_kept_without_the_plots_of_this_one(run, tmp_path):
    code, _, err = fit(run, table(tmp_path / "a.csv"), tmp_path / "laws", "--law", "kaplan")
    assert (code, err) == (0, "")
    assert read_law(tmp_path / "laws" / "fits" / "model.json").law.name == "kaplan"
    assert not (tmp_path / "laws" / "report.html").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(run, tmp_path, undrawn):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "plan.json").write_text("{}")
    code, _, err = fit(run, table(tmp_path / "a.csv"), tmp_path / "mine")
    assert (code, "holds something else" in err) == (2, True)
    fit(run, table(tmp_path / "a.csv"), tmp_path / "laws")
    code, _, _ = fit(run, table(tmp_path / "b.csv", architecture="dense"), tmp_path / "laws")
    assert code == 0
    assert set(laws_at(str(tmp_path / "laws")).fits) == {"dense"}


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "study"])
def test_an_architecture_that_is_no_name_of_a_file_is_refused(tmp_path, name):
    csv = table(tmp_path / "a.csv", architecture=name)
    with pytest.raises(StudyError, match="architecture: given"):
        save_table(csv, "chinchilla", {"tokens": "D"}, 0, tmp_path / "laws")
    assert not (tmp_path / "laws").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"law": "chinchilla"}', "[1]", '{"law": "kaplam"}'])
def test_a_file_that_is_no_law_says_what_is(tmp_path, text):
    path = tmp_path / "law.json"
    path.write_text(text)
    with pytest.raises(StudyError, match="no fitted law"):
        laws_at(str(path))


def test_what_is_given_beside_a_law_is_refused(run, tmp_path, undrawn):
    fit(run, table(tmp_path / "a.csv"), tmp_path / "laws")
    code, _, err = run("predict", tmp_path / "laws", "fit.seed=1", "--flops", 1e22)
    assert (code, "with a study alone" in err) == (2, True)
    code, _, err = run("fit", "quickstart", "--save", tmp_path / "x")
    assert (code, "for a CSV" in err) == (2, True)
    code, _, err = run("predict", tmp_path / "none.json", "--flops", 1e22)
    assert (code, "no fitted law there" in err) == (2, True)
