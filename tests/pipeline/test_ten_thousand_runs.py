"""A study of ten thousand runs is read in seconds: from the ends of journals, never from MLflow."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.config import RunConfig
from pipeline import records
from pipeline.config import Study, load_study
from pipeline.fits import fitted
from pipeline.plan import Plan, Tokens
from pipeline.runs import run_folder
from pipeline.status import status_rows

RUNS, KINDS = 10_000, 20
SECONDS = 10.0
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    output = tmp_path_factory.mktemp("studies")
    return load_study("quickstart", ["name=large", f"output={output}"])


@pytest.fixture
def plan(study: Study, run_config: RunConfig, attempt: Callable[..., Path]) -> Plan:
    """Its runs' journals are names of a few, which a reader cannot tell."""
    journals = [attempt(f"kind-{kind}", steps=range(1, 101)) for kind in range(KINDS)]
    runs = []
    for number in range(RUNS):
        run = run_config.model_copy(update={"name": f"run-{number}"})
        run_folder(study, run).parent.mkdir(parents=True, exist_ok=True)
        run_folder(study, run).symlink_to(journals[number % KINDS])
        runs.append(run)
    found = Plan(tuple(runs), (), Tokens(*[study.folder] * 3, "f" * 64, 10**6, 512))
    found.write(study.folder / "plan.json")
    return found


def test_status_and_the_table_of_the_fit_take_seconds(study: Study, plan: Plan) -> None:
    began = time.process_time()
    rows = status_rows(study)
    status = time.process_time()
    frame = records.table(study, Plan.read(study.folder / "plan.json"))
    assert fitted(study, frame) is None
    table = time.process_time()
    assert len(rows) == len(frame) == RUNS
    assert {row["status"] for row in rows} == set(frame["status"]) == {"finished"}
    assert rows[0]["loss"] == frame["loss"][0] == 3.1
    assert status - began < SECONDS
    assert table - status < SECONDS
    code = f"""
import sys
from pipeline.config import load_study
from pipeline.status import status_rows
rows = status_rows(load_study("quickstart", ["name=large", "output={study.folder.parent}"]))
assert len(rows) == {RUNS}
assert not {{"mlflow", "torch", "ray"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
