"""What lies on the disk is told; what is thrown away is nothing that a run still needs."""

import json
from pathlib import Path

import pytest

from launch.config import RunConfig, TrunkConfig
from launch.journal import FILE, Journal
from pipeline.config import Study
from pipeline.errors import BusyError, StudyError
from pipeline.housekeeping import free_checkpoints, spare_checkpoints, studies_in
from pipeline.kept import keep
from pipeline.lease import leading
from pipeline.plan import Plan
from pipeline.planner import make_plan
from pipeline.runs import run_folder
from tests.pipeline.test_plan import TOKENS, study

SIZE = 5000


@pytest.fixture
def made(tmp_path: Path) -> Study:
    """A study of five runs: finished, diverged, begun, a branch of the first, and one not begun."""
    planned = study(budgets=[1e11], sizes=5)
    planned = type(planned).model_validate(planned.model_dump() | {"output": str(tmp_path)})
    plan = make_plan(planned, TOKENS)
    first, second, third, branch, last = plan.runs
    trunk = TrunkConfig(run=run_folder(planned, first), step=1)
    branch = branch.model_copy(update={"train": branch.train.model_copy(update={"trunk": trunk})})
    runs = (first, second, third, branch, last)
    Plan(runs, plan.skipped, plan.tokens).write(planned.folder / "plan.json")
    keep(planned)
    for run, status in ((first, "finished"), (second, "diverged"), (third, None)):
        lay(planned, run, status)
    return planned


def lay(planned: Study, run: RunConfig, status: str | None) -> None:
    """A run with a checkpoint, that is over if ``status`` says how."""
    folder = run_folder(planned, run)
    step = folder / "checkpoints" / "step-1"
    step.mkdir(parents=True, exist_ok=True)
    (step / "rank-0.safetensors").write_bytes(bytes(SIZE))
    with Journal(folder / FILE) as journal:
        journal.begin()
        if status:
            journal.append({"kind": "end", "step": 1, "status": status, "train_seconds": 1.0})


def has_checkpoints(planned: Study) -> list[bool]:
    runs = Plan.read(planned.folder / "plan.json").runs
    return [(run_folder(planned, run) / "checkpoints").is_dir() for run in runs]


def test_checkpoints_of_runs_that_are_over_go_and_those_that_are_needed_stay(made):
    found = sorted(spare_checkpoints(made), key=lambda spare: spare.needed_by)
    assert [(spare.bytes, len(spare.needed_by)) for spare in found] == [(SIZE, 0), (SIZE, 1)]
    assert has_checkpoints(made) == [True, True, True, False, False]  # looking frees nothing
    [freed] = free_checkpoints(made)
    assert freed.bytes == SIZE
    assert has_checkpoints(made) == [True, False, True, False, False]
    lay(made, Plan.read(made.folder / "plan.json").runs[3], "finished")
    assert len(free_checkpoints(made)) == 2  # the trunk's, now that its branch is over, and its own
    assert has_checkpoints(made) == [False, False, True, False, False]


def test_nothing_goes_while_somebody_leads_the_study(made):
    with leading(made.folder), pytest.raises(BusyError, match="already being run by"):
        free_checkpoints(made)
    assert has_checkpoints(made) == [True, True, True, False, False]


def test_a_study_that_was_never_planned_has_nothing_to_clean(made):
    other = type(made).model_validate(made.model_dump() | {"name": "other"})
    with pytest.raises(StudyError, match="no plan there"):
        spare_checkpoints(other)
    assert not other.folder.exists()


def test_studies_are_listed_with_their_runs_and_their_bytes(made):
    [found] = studies_in(made.folder.parent)
    assert found.folder.name == "tiny"
    assert found.counts == {"finished": 1, "diverged": 1, "stopped": 1, "planned": 2}
    assert found.bytes > 3 * SIZE
    assert found.led_by is None
    with leading(made.folder):
        [held] = studies_in(made.folder.parent)
    assert "pid" in held.led_by
    assert held.counts["running"] == 1
    assert studies_in(made.folder) == []


def test_the_commands_list_first_and_free_on_request_alone(run, made, monkeypatch):
    output = made.folder.parent
    code, out, _ = run("studies", "--output", output)
    assert code == 0
    assert "1 finished, 1 diverged" in out
    _, out, _ = run("studies", "--output", output, "--json")
    assert json.loads(out)[0]["study"] == "tiny"

    given = ("clean", made.folder / "study.yaml", "--checkpoints")
    code, out, _ = run(*given)
    assert (code, "4.88 KiB of checkpoints may go" in out, "--yes" in out) == (0, True, True)
    assert has_checkpoints(made) == [True, True, True, False, False]
    with leading(made.folder):
        code, _, err = run(*given, "--yes")
    assert (code, "already being run by" in err) == (3, True)
    _, out, _ = run(*given, "--yes", "--json")
    assert json.loads(out)["freed"]
    assert has_checkpoints(made) == [True, False, True, False, False]
    code, _, err = run(*given[:2])
    assert (code, "allowed: --checkpoints" in err) == (2, True)
