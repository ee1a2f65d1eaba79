"""One leader per study: told apart without clocks or locks, and a dead one leads nothing."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import lease
from pipeline.errors import BusyError, LostLeadError
from pipeline.lease import Lookout, leader, leading

HOLD = """
import sys, time
from pathlib import Path
from pipeline.lease import leading
with leading(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
QUICK = {"beat": 0.02, "patience": 0.5}


@pytest.fixture
def elsewhere(monkeypatch):
    """Call to become another machine: this process then knows nothing of its own pids."""
    return lambda name: monkeypatch.setattr(lease, "_machine", lambda: name)


def test_a_second_leader_is_told_who_leads_and_a_killed_one_frees_the_study(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        begin = time.monotonic()
        with pytest.raises(BusyError, match=rf"pid {holder.pid} since 20\d\d-"), leading(tmp_path):
            pass
        assert leader(tmp_path).pid == holder.pid
    finally:
        holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet noticed
    with leading(tmp_path) as taken:
        assert taken.epoch == 2
    assert time.monotonic() - begin < lease.BEAT
    holder.wait()


def test_a_study_that_was_left_is_free_at_once_and_epochs_only_grow(tmp_path):
    epochs = []
    for _ in range(12):
        with leading(tmp_path) as held:
            epochs.append(held.epoch)
    assert epochs == list(range(1, 13))
    assert leader(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["leader-12.json"]


def test_a_living_leader_of_another_machine_is_seen_by_its_beats(tmp_path, elsewhere):
    with leading(tmp_path, **QUICK):
        elsewhere("another")
        with pytest.raises(BusyError, match="already being run by"), leading(tmp_path, **QUICK):
            pass


def test_a_leader_of_another_machine_is_dead_when_its_beats_stand_still(tmp_path, elsewhere):
    with leading(tmp_path, beat=60, on_loss=lambda: None):
        elsewhere("another")
        begin, said = time.monotonic(), []
        with leading(tmp_path, **QUICK, say=said.append) as taken:
            assert taken.epoch == 2
        assert time.monotonic() - begin >= 0.5
        assert "looking for 0.5 s at most" in said[0]


def test_one_who_looks_again_and_again_tells_the_living_from_the_dead(tmp_path, elsewhere):
    for beat, lives in ((0.02, True), (60, False)):
        with leading(tmp_path, beat=beat, on_loss=lambda: None):
            elsewhere("another")
            lookout = Lookout(tmp_path, patience=0.3)
            assert lookout.leader()
            time.sleep(0.2)
            assert lookout.leader()
            time.sleep(0.2)
            assert bool(lookout.leader()) == lives
    assert lookout.leader() is None


def test_a_leader_that_wakes_after_it_was_replaced_is_interrupted_and_says_so(tmp_path, elsewhere):
    lost = threading.Event()

    def sleep_through_the_loss():
        with leading(tmp_path, beat=1.0, on_loss=lost.set) as held:
            elsewhere("another")
            with leading(tmp_path, beat=0.02, patience=0.2):
                assert lost.wait(5)
                held.check()

    with pytest.raises(LostLeadError, match=r"the lead was lost to .* since"):
        sleep_through_the_loss()


@pytest.mark.parametrize("moved", [-3600, 3600])
def test_a_clock_moved_by_an_hour_kills_nobody(tmp_path, elsewhere, monkeypatch, moved):
    with leading(tmp_path, **QUICK):
        elsewhere("another")
        true = time.time
        monkeypatch.setattr(time, "time", lambda: true() + moved)
        record = next(tmp_path.glob("leader-*.json"))
        for _ in range(3):
            with pytest.raises(BusyError), leading(tmp_path, **QUICK):
                pass
        assert json.loads(record.read_text())["beats"] > 0


def test_of_twenty_at_once_one_leads(tmp_path):
    """Threads of one process: to the lease they are twenty askers, one of whom makes the file."""
    leads, over = [], threading.Event()

    def ask(_):
        try:
            with leading(tmp_path) as held:
                leads.append(held.epoch)
                over.wait(10)
        except BusyError:
            return "told"
        return "led"

    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(ask, number) for number in range(20)]
        deadline = time.monotonic() + 10
        while sum(answer.done() for answer in answers) < 19 and time.monotonic() < deadline:
            time.sleep(0.01)
        over.set()
    assert sorted(answer.result() for answer in answers) == ["led"] + ["told"] * 19
    assert leads == [1]


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match="file/study cannot be written"),
        leading(tmp_path / "file" / "study"),
    ):
        pass
