"""Whatever stops a rank, its run is ended in time, and the rank that is to blame is named."""

import contextlib
import ctypes
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from launch import device, watchdog
from launch.config import RunConfig
from launch.journal import read_run
from launch.process import born
from launch.tail import read_tail
from launch.watchdog import PULSE, START_SECONDS, Pulse, Watchdog, blame, forget

Make = Callable[..., RunConfig]
TIMEOUT = 3.0


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Exit codes of the processes that a watchdog would have ended; that thread goes no further."""
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        threading.Event().wait()

    monkeypatch.setattr("launch.watchdog.os._exit", end)
    return codes


def until(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Slow:
    """A number that takes a second; it is C that waits for it, as for a GPU's."""

    __float__ = partial(time.sleep, 1.0)


@pytest.mark.parametrize("on_device", [True, False])
def test_a_rank_that_waits_for_its_device_is_not_the_one_that_hangs(
    tmp_path: Path, ends: list[int], on_device: bool
):
    """With NCCL it is in reading a number from the GPU that a rank waits for the others."""
    with Watchdog(tmp_path, 0, 2, timeout=0.1) as dog, contextlib.suppress(TypeError):
        dog.beat(6)
        dog.beat(7)
        device.value(Slow()) if on_device else float(Slow())
    told = blame(tmp_path, 2)
    assert ends == [watchdog.EXIT_CODE]
    assert told is not None
    assert told.endswith("rank 1 fell silent after step 7, its peers waiting for it")
    assert told.startswith("rank 1" if on_device else "rank 0 hung after step 7 at")


def test_the_first_step_may_take_long(
    tmp_path: Path, ends: list[int], monkeypatch: pytest.MonkeyPatch
):
    """Kernels are compiled in it, after the first beat; an evaluation before it is no step."""
    monkeypatch.setattr(watchdog, "START_SECONDS", 3600.0)
    with Watchdog(tmp_path, 0, 1, timeout=0.2) as dog:
        for step in (4, 4):
            dog.beat(step)
            time.sleep(0.6)
        assert ends == []
        dog.beat(5)
        until(lambda: ends, 2)


def test_a_rank_that_cannot_report_is_ended_all_the_same(tmp_path: Path, ends: list[int]):
    with Watchdog(tmp_path / "gone", 0, 1, timeout=0.1) as dog:
        dog.beat(1)
        dog.beat(2)
        until(lambda: ends, 2)


def test_peers_report_when_one_does_and_leave_together(tmp_path: Path, ends: list[int]):
    """Their last beats may be further apart than the one that notices first would wait."""
    dogs = [Watchdog(tmp_path, rank, 2, timeout=2.0) for rank in (0, 1)]
    with dogs[0], dogs[1]:
        for dog in dogs:
            dog.beat(1)
            dog.beat(2)
        time.sleep(0.8)
        dogs[1].beat(2)
        until(lambda: len(ends) == 2, 3)
        assert json.loads((tmp_path / "hang-1.json").read_text())["seconds"] < 2.0


def report(folder: Path, rank: int, step: int, place: str, waits: bool) -> None:
    told = {"rank": rank, "step": step, "place": place, "waits": waits}
    (folder / f"hang-{rank}.json").write_text(json.dumps(told))


def test_who_is_to_blame(tmp_path: Path):
    assert blame(tmp_path, 3) is None
    report(tmp_path, 0, 7, "train.py:1 _step", waits=True)
    assert blame(tmp_path, 3) == "ranks 1, 2 fell silent after step 7, its peers waiting for it"
    report(tmp_path, 2, 7, "train.py:1 _step", waits=True)
    assert blame(tmp_path, 3) == "rank 1 fell silent after step 7, its peers waiting for it"
    report(tmp_path, 1, 7, "train.py:9 _end", waits=True)
    assert blame(tmp_path, 3) == (
        "all ranks wait for each other after step 7: a collective operation was skipped: "
        "ranks 0, 2 at train.py:1 _step; rank 1 at train.py:9 _end"
    )
    report(tmp_path, 1, 7, "reading.py:3 batches", waits=False)
    assert blame(tmp_path, 3) == "rank 1 hung after step 7 at reading.py:3 batches"
    forget(tmp_path)
    assert blame(tmp_path, 3) is None


class Clock:
    """A stopwatch that a test turns; it looks at a pulse as often as a driver may."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self._path = 1e6, folder / PULSE
        monkeypatch.setattr("launch.watchdog.time.monotonic", lambda: self.now)
        self.pulse = Pulse(folder, timeout=600.0)

    def turn(self, seconds: int, beating: bool) -> float | None:
        """After how many seconds the pulse was said to have stopped."""
        for second in range(seconds):
            self.now += 1
            if beating and second % 60 == 0:
                self._path.write_text(str(self.now))
            if self.pulse.has_stopped():
                return second
        return None


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    with monkeypatch.context() as patched:
        yield Clock(tmp_path, patched)


def test_a_pulse_that_stops_is_noticed_within_twice_the_step_timeout(clock: Clock):
    assert clock.turn(7200, beating=True) is None
    noticed = clock.turn(7200, beating=False)
    assert noticed is not None
    assert 600 - 60 <= noticed <= 1200


def test_a_driver_that_was_stopped_accuses_nobody(clock: Clock):
    """Nor does one whose clock is set: what counts is what it sees in looks of its own."""
    for hours in (1, -1, 100):
        assert clock.turn(1200, beating=True) is None
        clock.now += 3600 * hours
        assert not clock.pulse.has_stopped()


def test_a_start_may_take_longer_than_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        clock = Clock(tmp_path, patched)
        clock.pulse = Pulse(tmp_path, timeout=10.0)
        noticed = clock.turn(7200, beating=False)
    assert noticed is not None
    assert START_SECONDS < noticed <= 2 * START_SECONDS + 10


@pytest.fixture
def open_gang(gangs: Any) -> Iterator[Callable[[RunConfig], Any]]:
    """A gang that has all devices for itself: it is not expected to live."""
    from launch.gang import Gang

    opened = []

    def make(config: RunConfig) -> Any:
        opened.append(Gang(config.parallel))
        return opened[-1]

    gangs.close()
    gangs.idle.clear()
    yield make
    for gang in opened:
        gang.close()


def ending(gang: Any) -> tuple[Any, float]:
    """How the run ends, looking as often as a sweep does, and after how many seconds."""
    from launch.gang import wait_any

    start = time.monotonic()
    while not (ended := wait_any([gang], TIMEOUT / 10)):
        assert time.monotonic() - start < 10 * TIMEOUT
    return ended[0][1], time.monotonic() - start


def at_step(number: int, fault: Callable[[], Any]) -> Callable[[Any], None]:
    """What a rank's process is told, so that `fault` comes in the forward pass of that step."""

    def arm(worker: Any) -> None:
        from launch.objective import Objective

        forward, calls = Objective.forward, iter(range(1, 10**6))

        def faulty(self: Any, *args: Any) -> Any:
            if next(calls) == number:
                fault()
            return forward(self, *args)

        Objective.forward = faulty  # type: ignore[method-assign]

    return arm


def sleep() -> None:
    time.sleep(3600)


def wait_for_nobody() -> None:
    """A rank that has left out one meeting waits in the next, to which nobody comes."""
    group = torch.distributed.group.WORLD
    torch.distributed.recv(torch.zeros(1), src=0, group=group, tag=77)


def hold_the_interpreter() -> None:
    ctypes.PyDLL(None).sleep(3600)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (sleep, r"^rank 1 hung after step 5 at .*test_watchdog\.py:\d+ sleep$"),
        (
            wait_for_nobody,
            r"^all ranks wait for each other after step 5: a collective operation was skipped: "
            r"ranks 0, 2 at .*; rank 1 at .*test_watchdog\.py:\d+ wait_for_nobody$",
        ),
        (hold_the_interpreter, r"^rank 1 fell silent after step 5, its peers waiting for it$"),
    ],
)
def test_of_three_ranks_the_one_that_stops_is_named(
    run_config: Make,
    open_gang: Callable[[RunConfig], Any],
    tmp_path: Path,
    fault: Callable[[], None],
    told: str,
):
    import ray

    config = run_config(
        data__batch_size=6,
        train__steps=4000,
        train__evaluations=1,
        parallel__ranks=3,
        parallel__step_timeout=TIMEOUT,
    )
    gang = open_gang(config)
    ray.get(gang._actors[1].__ray_call__.remote(at_step(6, fault)))
    gang.submit(config, tmp_path)
    until(lambda: read_tail(tmp_path).step >= 4)
    outcome, seconds = ending(gang)
    assert outcome.status == "failed"
    assert seconds < 2 * TIMEOUT
    assert re.search(told, outcome.reason), outcome.reason
    reports = {path.name for path in tmp_path.glob("hang-*.json")}
    told_of = (0, 2) if fault is hold_the_interpreter else (0, 1, 2)
    assert reports >= {f"hang-{rank}.json" for rank in told_of}
    assert "Thread 0x" in (tmp_path / "rank-0.log").read_text()


@pytest.mark.cluster
@pytest.mark.parametrize("fault", ["SIGSTOP", pytest.param("interpreter", marks=pytest.mark.slow)])
def test_a_rank_that_is_alone_is_ended_too(
    run_config: Make, open_gang: Callable[[RunConfig], Any], tmp_path: Path, fault: str
):
    """Its watchdog has stopped with it, and there is no peer to notice."""
    import ray

    config = run_config(train__steps=10**6, train__evaluations=1, parallel__step_timeout=TIMEOUT)
    gang = open_gang(config)
    [actor] = gang._actors
    pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
    if fault == "interpreter":
        ray.get(actor.__ray_call__.remote(at_step(2000, hold_the_interpreter)))
    gang.submit(config, tmp_path)
    until(lambda: (tmp_path / PULSE).exists() and read_tail(tmp_path).step >= 5)
    if fault == "SIGSTOP":
        os.kill(pid, signal.SIGSTOP)
    outcome, seconds = ending(gang)
    assert (outcome.status, outcome.is_worker_sound) == ("failed", False)
    assert "rank 0 shows no sign of life" in outcome.reason
    assert read_run(tmp_path).status == "failed"
    if fault == "SIGSTOP":
        assert seconds < 2 * TIMEOUT + 1
    until(lambda: not born(pid))
