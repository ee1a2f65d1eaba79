"""A recommendation becomes a study of one run, its forecast frozen before it and scored after."""

import numpy as np
import pandas as pd
import pytest

from analysis.parametric import fit
from pipeline.allocate import allocate_study
from pipeline.config import Study, load_study
from pipeline.errors import StudyError
from pipeline.fit_record import law_path
from pipeline.forecasts import forecast_study
from pipeline.planner import make_plan
from pipeline.runs import row, run_flops
from tests.pipeline.test_plan import TOKENS
from tests.pipeline.test_plan import study as plain

FLOPS = 3e14


def loss(frame: pd.DataFrame) -> pd.Series:
    return 1.7 + 60 / frame["params"] ** 0.37 + 300 / frame["tokens"] ** 0.34


@pytest.fixture
def study(tmp_path) -> Study:
    made = plain(budgets=[1e11, 1e12, 1e13])
    made = Study.model_validate(made.model_dump() | {"output": str(tmp_path)})
    plan = make_plan(made, TOKENS)
    plan.write(made.folder / "plan.json")
    frame = pd.DataFrame([row(run) for run in plan.runs]).assign(status="finished")
    noise = np.random.default_rng(0).normal(0, 0.003, len(frame))
    frame["loss"] = loss(frame) * np.exp(noise)
    frame.to_csv(made.folder / "table.csv", index=False)
    path = law_path("dense", made.folder)
    path.parent.mkdir(parents=True)
    path.write_text(fit(frame, resamples=100).to_json())
    return made


def test_the_file_is_a_study_of_the_run_that_the_law_recommends(study):
    [found] = allocate_study(study, FLOPS, "dense")
    child = load_study(found["study"])
    [run] = make_plan(child, TOKENS).runs
    assert row(run) == found["run"]
    assert run_flops(run) == pytest.approx(FLOPS, rel=0.01)
    best = found["allocation"]["params"]
    assert run.labels["params"] == pytest.approx(best["value"], rel=0.1)
    assert (child.corpus, child.tokenizer, child.train) == (
        study.corpus,
        study.tokenizer,
        study.train,
    )
    assert child.folder != study.folder
    assert child.cache == study.cache


def test_it_is_trained_as_its_architecture_is(study):
    values = study.model_dump(mode="json")
    own = {"train": {"optimizer": "muon"}, "rule": {"name": "step_law"}}
    values["architectures"]["dense"] |= own
    [found] = allocate_study(Study.model_validate(values), FLOPS, "dense")
    child = load_study(found["study"])
    assert (
        child.model_dump(mode="json")["architectures"]["dense"].items()
        >= {"train": own["train"]}.items()
    )
    [run] = make_plan(child, TOKENS).runs
    assert run.train.optimizer.name == "muon"
    assert run.train.optimizer.learning_rate != 0.01


def test_its_forecast_is_frozen_once_and_scored_by_its_run(study):
    [first], [again] = (allocate_study(study, FLOPS, None) for _ in range(2))
    assert first["forecast"] == again["forecast"]
    child = load_study(first["study"])
    frame = pd.DataFrame([first["run"]]).assign(status="finished")
    frame.assign(loss=loss(frame)).to_csv(child.folder / "table.csv", index=False)
    [scored] = forecast_study(child, None, None)
    assert scored["score"]["inside"]
    assert abs(scored["score"]["error"]) < 0.02


def test_what_was_trained_already_is_no_forecast(study):
    [found] = allocate_study(study, FLOPS, None)
    child = load_study(found["study"])
    (child.folder / "forecasts" / "dense.jsonl").unlink()
    frame = pd.DataFrame([found["run"]]).assign(status="finished", loss=2.0)
    frame.to_csv(child.folder / "table.csv", index=False)
    with pytest.raises(StudyError, match="trained already"):
        allocate_study(study, FLOPS, None)


def test_a_budget_that_the_corpus_cannot_feed_is_refused_and_writes_nothing(study):
    with pytest.raises(StudyError, match=r"epochs, more than grid\.max_epochs = 4"):
        allocate_study(study, 1e26, "dense")
    assert not (study.folder / "allocations").exists()
    with pytest.raises(StudyError, match="--flops: given -1"):
        allocate_study(study, -1, None)
    with pytest.raises(StudyError, match="did you mean 'dense'"):
        allocate_study(study, FLOPS, "dens")
