"""The end of a journal tells what all of it would, however long it is."""

import json

import pytest
from rich.console import Console

from launch.tail import Tail, read_tail
from pipeline.job import PAUSED, Job
from pipeline.progress import Task
from pipeline.sweep import Sweep
from pipeline.training import Shown


def test_it_agrees_with_the_whole_journal(attempt, tmp_path):
    from launch.journal import read_run

    folder = attempt(
        steps=range(10, 4000, 10), aux={"load": 0.5} | {f"a{i}": 1.0 for i in range(20)}
    )
    tail, whole = read_tail(folder), read_run(folder)
    assert (tail.status, tail.attempts) == (whole.status, len(whole.attempts))
    assert (tail.loss, tail.bits_per_byte) == (whole.evals[-1].loss, whole.evals[-1].bits_per_byte)
    assert (tail.train_loss, tail.mfu) == (whole.points[-1].loss, whole.points[-1].mfu)
    assert tail.step == whole.points[-1].step == 3990


def test_what_an_earlier_attempt_wrote_is_not_the_last_ones(attempt):
    folder = attempt(steps=range(10, 60, 10), end="failed", reason="rank 0 was killed")
    assert (read_tail(folder).status, read_tail(folder).reason) == ("failed", "rank 0 was killed")
    attempt(steps=(), end=None, resumed_from=40)
    tail = read_tail(folder)
    assert (tail.status, tail.attempts, tail.step, tail.train_loss) == ("running", 2, 40, None)


def test_a_run_without_a_journal_is_planned_and_a_claimed_one_queued(tmp_path):
    from launch.journal import FILE, Journal

    assert read_tail(tmp_path) == Tail()
    with Journal(tmp_path / FILE, epoch=1) as journal:
        journal.claim()
    assert read_tail(tmp_path).status == "queued"


def test_a_study_is_paused_by_a_file(tmp_path):
    from pipeline.status import pause
    from tests.pipeline.test_plan import study

    made = study()
    made = type(made).model_validate(made.model_dump() | {"output": str(tmp_path)})
    pause(made, off=False)
    assert (made.folder / PAUSED).exists()
    pause(made, off=True)
    assert not (made.folder / PAUSED).exists()


def test_what_is_expected_of_a_run_follows_its_own_pace(attempt, run_config, tmp_path):
    clock = [100.0]
    shown = Shown(tmp_path / "sweep.json", Task(Console(), "train", 1.0, None), 1, lambda: clock[0])
    job = Job(run_config, attempt(steps=[10], end=None), expected=5.0, began=95.0)
    sweep = Sweep(lambda: 2, 0, None, None, clock=lambda: clock[0], devices=2)
    sweep.busy[0] = (None, job)
    shown(sweep)
    attempt(steps=[20, 40], end=None, resumed_from=10)
    clock[0] = 130.0
    shown(sweep)
    assert job.expected == 35 + 60  # 30 steps in 30 s, 60 are left of 100
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert told["running"] == ["dense"]
    assert told["expected_end"] - told["updated"] == pytest.approx(60)
