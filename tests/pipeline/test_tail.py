"""The end of a journal tells what all of it would, however long it is."""

import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from launch.tail import Tail, read_tail
from pipeline.errors import StudyError
from pipeline.job import PAUSED, Job
from pipeline.kept import STUDY, spoken
from pipeline.lease import leading
from pipeline.plan import PLAN
from pipeline.progress import Task
from pipeline.status import pause
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


def test_commands_name_a_study_so_that_they_find_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert spoken(tmp_path / "studies" / "mine") == "mine"
    assert spoken(tmp_path / "other" / "mine") == str(tmp_path / "other" / "mine" / STUDY)


def test_a_study_is_paused_by_a_file_and_told_what_that_does(tmp_path):
    def study(name):
        return SimpleNamespace(folder=tmp_path / name)

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / PLAN).touch()
    again = f"isoflop pause {tmp_path / 'mine' / STUDY} --off"
    told = pause(study("mine"), off=False)
    assert told == f"mine: whoever runs it waits, until `{again}`"
    assert (tmp_path / "mine" / PAUSED).exists()
    with leading(tmp_path / "mine"):
        assert "its runs save their state" in pause(study("mine"), off=False)
        assert pause(study("mine"), off=True) == "mine: goes on"
    assert not (tmp_path / "mine" / PAUSED).exists()
    assert "not held" in pause(study("mine"), off=True)


def test_a_study_that_is_not_there_is_not_paused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / PLAN).touch()
    with pytest.raises(StudyError, match="studies there: mine; did you mean 'mine'"):
        pause(SimpleNamespace(folder=tmp_path / "mime"), off=False)
    assert not (tmp_path / "mime").exists()


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
