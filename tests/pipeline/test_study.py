"""A study's driver, over simulated gangs: whatever becomes of runs, what has finished is fitted."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from analysis.forecast import freeze, write_register
from data.prepare import prepare
from launch.journal import FILE, Journal
from pipeline import study as driver
from pipeline.allocate import predict_study
from pipeline.atomic import write_text
from pipeline.cli import app
from pipeline.config import Study, load_study
from pipeline.errors import ConfigError, StoppedError, StudyError
from pipeline.kept import STUDY
from pipeline.law_files import fits_of
from pipeline.lease import leading
from pipeline.plan import PLAN, Plan, Tokens
from pipeline.planner import make_plan
from pipeline.status import status_rows
from pipeline.study import fit_study, preflight, run_study
from tests.pipeline.simulated import Gang, Outcome, simulate, small_study


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    simulate(monkeypatch)
    return small_study(tmp_path)


def run(study: Study) -> str:
    told = io.StringIO()
    run_study(study, Console(file=told, width=1000), 1)
    return told.getvalue()


def statuses(study: Study) -> dict[str, int]:
    return pd.read_csv(study.folder / "table.csv")["status"].value_counts().to_dict()


def end(monkeypatch: pytest.MonkeyPatch, name: str, status: str) -> None:
    """Let the run ``name`` end so from here on."""
    finish = Gang.finish

    def finished(gang: Gang) -> Outcome:
        if gang.config.name != name:
            return finish(gang)
        with Journal(gang.folder / FILE) as journal:
            journal.begin(world=1)
            journal.append({"kind": "end", "step": 1, "status": status, "reason": "as told"})
        return Outcome(status, "as told", step=1)

    monkeypatch.setattr(Gang, "finish", finished)


def plan_of(study: Study) -> Plan:
    return make_plan(study, Tokens.of(prepare(study.corpus, study.tokenizer, study.cache, 0)))


def test_a_run_that_fails_for_good_withholds_nothing_but_itself(study, monkeypatch):
    bad = plan_of(study).runs[0].name
    with monkeypatch.context() as patch:
        end(patch, bad, "failed")
        with pytest.raises(StudyError, match=f"the laws are without 1 runs .* tries again: {bad}"):
            run(study)
    assert statuses(study) == {"finished": 14, "failed": 1}
    assert (study.folder / "report.html").is_file()
    assert (study.folder / "fits" / "dense.json").is_file()
    run(study)
    assert statuses(study) == {"finished": 15}


def test_a_plan_of_another_study_does_not_make_runs_be_forgotten(study):
    run(study)
    written = (study.folder / PLAN).read_bytes()
    other = study.model_copy(update={"grid": study.grid.model_copy(update={"sizes": 3})})
    told = io.StringIO()
    assert len(preflight(other, Console(file=told, width=1000), 1).plan.runs) < 15
    assert "not written" in told.getvalue()
    assert (study.folder / PLAN).read_bytes() == written
    assert len(status_rows(study)) == 15

    preflight(study, Console(file=told, width=1000), 1)
    assert told.getvalue().count("not written") == 1
    assert (study.folder / PLAN).read_bytes() == written


def test_laws_are_fitted_while_another_runs_the_study_and_tells_mlflow(study, monkeypatch):
    run(study)
    sent: list[object] = []
    monkeypatch.setattr(driver, "publish", lambda *_: sent.append(1))
    told, law = io.StringIO(), study.folder / "fits" / "dense.json"
    law.unlink()
    with leading(study.folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "fitted", lambda *_: None)
        fit_study(study, Console(file=told, width=1000))
    assert law.is_file()
    assert "small: already being run by" in told.getvalue()
    assert not sent
    fit_study(study, Console(file=told))
    assert sent


def test_a_law_that_the_runs_no_longer_tell_predicts_nothing(study, monkeypatch):
    run(study)
    assert set(fits_of(study)) == {"dense"}
    write_text(study.folder / "fits" / "dense.sparsity.json", "what another grid asked for")
    few = pd.read_csv(study.folder / "table.csv")
    few.loc[2:, ["status", "loss"]] = ["diverged", None]
    monkeypatch.setattr(driver, "table", lambda *_: few)
    document = fit_study(study, Console(file=io.StringIO()))
    assert document["analysis"]["architectures"]["dense"]["approach3"] is None
    assert fits_of(study) == {}
    assert [path.name for path in (study.folder / "fits").iterdir()] == ["study.json"]
    with pytest.raises(StudyError, match="no fitted law"):
        predict_study(study, 1e10, None)


def test_a_study_that_was_never_run_is_not_made_by_a_fit(tmp_path):
    never = load_study("quickstart", ["name=never", f"output={tmp_path}"])
    with pytest.raises(StudyError, match="no plan there"):
        fit_study(never, Console(file=io.StringIO()))
    assert not never.folder.exists()


def test_a_study_is_found_by_its_name_once_it_was_run(tmp_path, monkeypatch):
    simulate(monkeypatch)
    monkeypatch.chdir(tmp_path)
    study = small_study(tmp_path, "name=longer", "output=studies", "train.checkpoint_steps=null")
    run(study)

    def ask(*command: str) -> object:
        done = CliRunner().invoke(app, [*command, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert {row["status"] for row in ask("status", "longer")} == {"finished"}
    [found] = ask("predict", "longer", "--flops", "1e10")
    assert found["run"]["train"]["checkpoint_every"] is None
    assert set(ask("fit", "longer")["architectures"]) == {"dense"}
    assert "isoflop run studies/longer/study.yaml" in (study.folder / "report.html").read_text()
    with pytest.raises(ConfigError, match=r"in studies: longer; did you mean 'longer'"):
        load_study("longr")


def test_the_score_of_a_forecast_reaches_a_report_whose_laws_are_made_already(study):
    run(study)
    report, law = study.folder / "report.html", fits_of(study)["dense"]
    row = pd.read_csv(study.folder / "table.csv").iloc[-1]
    target = {name: float(row[name]) for name in ("params", "tokens")}
    frozen = freeze(law, made=1.0, flops=float(row["flops"]), **target)
    assert "<h2>Forecasts</h2>" not in report.read_text()

    write_text(study.folder / "forecasts" / "dense.jsonl", write_register([frozen]))
    assert "Forecasts, frozen before their runs" in run(study)
    told = report.read_text().partition("<h2>Forecasts</h2>")[2].partition("</section>")[0]
    assert f"{row['loss']:.4f}" in told
    written = report.stat().st_mtime_ns
    run(study)
    assert report.stat().st_mtime_ns == written, "nothing has changed"

    altered = write_register([frozen]).replace('"made": 1.0', '"made": 2.0')
    write_text(study.folder / "forecasts" / "dense.jsonl", altered)
    assert "was altered after it was frozen" in run(study)
    assert "was altered after it was frozen" in report.read_text()


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (KeyboardInterrupt(), "stopped; the same command goes on"),
        (StoppedError([]), "stopped; every run has saved its state, and the same command goes on"),
        (StoppedError(["a", "b"]), "stopped; a, b did not save their state in time"),
    ],
)
def test_an_interruption_claims_what_is_known_and_no_more(study, monkeypatch, stop, said):
    """Such as nothing, while the corpus is tokenized."""

    def interrupted(*_: object) -> None:
        raise stop

    monkeypatch.setattr("pipeline.ready._prepare", interrupted)
    monkeypatch.setattr("pipeline.config.load_study", lambda *_, **__: study)
    ended = CliRunner().invoke(app, ["run", "small"])
    assert ended.exit_code == 130
    assert ended.stdout.startswith(said)
    assert (study.folder / STUDY).is_file(), "for whoever asks by its name"
