"""The runs of a study on the devices of a cluster: each once, packed, failures retried.

The scheduler knows gangs only by what it needs of them (``Worker``), so that it can be shown to be
right with simulated ones. What a run did is read from its journal, never from its worker's word.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from launch.config import ParallelConfig
from launch.journal import DONE
from pipeline.branches import Branches
from pipeline.errors import StoppedError
from pipeline.job import Job, Outcome, Worker
from pipeline.packing import EPSILON, Queue

LOOKAHEAD = 8
"""Gangs that Ray may be finding a place for at once: hundreds slow its scheduler to a crawl."""
PLACING_SECONDS = 0.05
SAVE_SECONDS = 90.0
"""What runs have to save their state in when it all ends: Slurm and Kubernetes give 120."""

W = TypeVar("W", bound=Worker)


@dataclass
class Sweep(Generic[W]):
    """Trains every job to its end.

    ``capacity`` tells the devices of the cluster, which may come and go; ``open_worker`` starts a
    gang of a shape; ``wait_any`` returns those that have ended a run, with their outcomes. While
    ``is_paused`` every run is stopped, its state saved, and none is started. ``device_seconds`` is
    what all may take: nothing is started that is not expected to end within it. ``on_change`` is
    told of every turn.
    """

    capacity: Callable[[], float]
    retries: int
    open_worker: Callable[[ParallelConfig], W]
    wait_any: Callable[[Sequence[W], float], Sequence[tuple[W, Outcome]]]
    device_seconds: float = math.inf
    is_paused: Callable[[], bool] = lambda: False
    on_change: Callable[[Sweep[W]], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    queue: Queue[Job] = field(default_factory=Queue)
    waiting: Branches[Job] = field(default_factory=Branches)
    busy: dict[int, tuple[W, Job]] = field(default_factory=dict)
    idle: list[tuple[Job, W]] = field(default_factory=list)
    ended: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    left_out: list[Job] = field(default_factory=list)
    devices: float = 0.0
    paused: bool = False
    _opened: list[W] = field(default_factory=list)
    _spent: float = 0.0
    _told: str = ""
    _pace: tuple[float, float] = (0.0, 0.0)

    def run(self, jobs: Sequence[Job], patience: float = 1.0) -> None:
        """Train ``jobs``; on an interruption every run saves its state before this returns.

        Raises:
            StoppedError: it was interrupted; the error names the runs that did not save theirs.
        """
        self._sort(jobs)
        try:
            while self.waiting or self.queue or self.busy:
                self._look()
                starting = self._fill()
                if not self.busy and not self._can_wait():
                    break
                self.on_change(self)
                self._await(PLACING_SECONDS if starting else patience)
            self.on_change(self)
        except KeyboardInterrupt:
            raise StoppedError(self._stop()) from None
        finally:
            self._close()

    @property
    def spent(self) -> float:
        """Device-seconds that gangs have held for runs so far."""
        now = self.clock()
        return self._spent + sum((now - j.began) * j.width for _, j in self.busy.values())

    @property
    def area_left(self) -> float:
        """Expected device-seconds of training that are left."""
        waiting = sum(job.expected * job.width for job in self.waiting)
        return waiting + self.queue.area + self._running_area()

    @property
    def seconds_left(self) -> float:
        """Expected wall seconds: all of it on all devices, at the pace of the runs that ended."""
        if not self.devices:
            return math.inf
        expected, took = self._pace
        longest = max((end - self.clock() for end, _ in self._running()), default=0.0)
        return max(self.area_left / self.devices, longest, 0.0) * (took / expected if took else 1.0)

    def record(self) -> dict[str, Any]:
        """Where it stands, as JSON values."""
        now, left = time.time(), self.seconds_left
        return {
            "updated": now,
            "paused": self.paused,
            "devices": self.devices,
            "devices_busy": self._used(busy_alone=True),
            "running": [job.run.name for _, job in self.busy.values()],
            "waiting": len(self.queue) + len(self.waiting),
            "ended": len(self.ended),
            "failed": [job.run.name for job in self.failed],
            "device_hours": self.spent / 3600,
            "expected_end": now + left if math.isfinite(left) else None,
        }

    def _look(self) -> None:
        """What has changed around the runs: devices, the wish to pause, checkpoints of trunks."""
        self.devices = self.capacity()
        self._make_room(0.0)  # where devices have gone, an idle worker may hold those of a run
        paused = self.is_paused()
        if paused != self.paused:
            self.say("paused: runs save their state and stop" if paused else "going on")
            self.paused = paused
            if paused:
                self._ask_all_to_stop()
        if self.spent >= self.device_seconds:
            self._ask_all_to_stop()
        self._release(job.folder for _, job in self.busy.values())

    def _sort(self, jobs: Sequence[Job]) -> None:
        """Queue those that may start; the others wait for their trunks, where those will train."""
        for job in jobs:
            if job.is_ready:
                self.queue.add(job)
            else:
                self.waiting.add(job)
        for trunk in self.waiting.trunks - {job.folder for job in jobs}:
            self._over(trunk)

    def _release(self, trunks: Iterable[Path]) -> None:
        for branch in self.waiting.take_ready(trunks):
            self.queue.add(branch)

    def _over(self, trunk: Path) -> None:
        """A run has ended for good: branches that it left no checkpoint for never start."""
        for job in self.waiting.take(trunk):
            self.say(f"{job.run.name} cannot start: {job.start} is not there")
            self.left_out.append(job)

    def _fill(self) -> bool:
        """Start what fits; whether Ray still looks for a place for some."""
        while not self.paused:
            if self._placing() >= LOOKAHEAD:
                return True
            free = self.devices - self._used(busy_alone=True)
            within = self.device_seconds - self.spent - self._running_area()
            warm = {job.width for job, _ in self.idle}
            job = self.queue.take(self.clock(), free, self.devices, self._running(), within, warm)
            if job is None:
                return False
            self._start(job)
        return False

    def _start(self, job: Job) -> None:
        worker = self._worker(job)
        job.began = self.clock()
        self.busy[id(worker)] = (worker, job)
        worker.submit(job.run, job.folder)

    def _worker(self, job: Job) -> W:
        """A warm worker of the job's shape, or a new one in the place of idle ones."""
        for position, (last, worker) in enumerate(self.idle):
            if last.run.parallel == job.run.parallel:
                del self.idle[position]
                return worker
        self._make_room(job.width)
        worker = self.open_worker(job.run.parallel)
        self._opened.append(worker)
        return worker

    def _placing(self) -> int:
        """How many gangs Ray is finding a place for."""
        opened = self._opened
        self._opened = [w for w in opened if id(w) in self.busy and not w.is_placed]
        return len(self._opened)

    def _make_room(self, width: float) -> None:
        """Close idle workers until there are devices for ``width`` more, or none is left."""
        while self.idle and self._used() + width > self.devices + EPSILON:
            self.idle.pop(0)[1].close()

    def _await(self, patience: float) -> None:
        if not self.busy:
            self._close()
            time.sleep(patience)
            return
        for worker, outcome in self.wait_any([w for w, _ in self.busy.values()], patience):
            self._end(worker, outcome)

    def _can_wait(self) -> bool:
        """Whether something may yet start though nothing runs: say what it waits for, once."""
        if self.paused:
            return True
        narrowest = min((job.width for job in self.queue), default=math.inf)
        if narrowest > self.devices + EPSILON and self.queue:
            told = f"waiting for devices: {self.devices:g} are there, runs need {narrowest:g}"
            if told != self._told:
                self.say(told)
            self._told = told
            return True
        return False

    def _end(self, worker: W, outcome: Outcome) -> None:
        _, job = self.busy.pop(id(worker))
        took = self.clock() - job.began
        self._spent += took * job.width
        self._release([job.folder])
        if outcome.is_worker_sound:
            self.idle.append((job, worker))
        else:
            worker.close()
        if outcome.status in (*DONE, "cancelled"):
            self.ended.append(job)
            self._over(job.folder)
            if outcome.status == "finished":
                expected, taken = self._pace
                self._pace = (expected + job.expected * job.width, taken + took * job.width)
            else:
                self.say(f"{job.run.name} {outcome.status}: {outcome.reason}")
        elif outcome.status == "preempted":
            job.expected = max(job.expected - took, 0.0)
            self.queue.add(job)
        else:
            self._retry(job, outcome)

    def _retry(self, job: Job, outcome: Outcome) -> None:
        """Try again, unless that brought no progress so often; further on, failures count anew."""
        if outcome.step > job.furthest:
            job.furthest, job.failures = outcome.step, 0
        job.failures += 1
        if job.failures <= self.retries:
            self.say(f"{job.run.name} {outcome.status}: {outcome.reason}; trying again")
            self.queue.add(job)
        else:
            self.failed.append(job)
            self._over(job.folder)
            tries = f"after {job.failures} tries"
            self.say(f"{job.run.name} {outcome.status} {tries}: {outcome.reason}")

    def _running(self) -> list[tuple[float, float]]:
        """Expected ends and widths; a run that is late should end now."""
        now = self.clock()
        return [(max(j.began + j.expected, now), j.width) for _, j in self.busy.values()]

    def _running_area(self) -> float:
        now = self.clock()
        return sum((end - now) * width for end, width in self._running())

    def _used(self, busy_alone: bool = False) -> float:
        busy = sum(job.width for _, job in self.busy.values())
        return busy if busy_alone else busy + sum(job.width for job, _ in self.idle)

    def _ask_all_to_stop(self) -> None:
        for worker, _ in self.busy.values():
            worker.stop()

    def _stop(self) -> list[str]:
        """Have all runs save their state; the names of those that did not within the time."""
        if self.busy:
            self.say(f"stopping: {len(self.busy)} runs have {SAVE_SECONDS:g} s to save their state")
        self._ask_all_to_stop()
        unsaved: list[str] = []
        deadline = self.clock() + SAVE_SECONDS
        while self.busy and self.clock() < deadline:
            for worker, outcome in self.wait_any([w for w, _ in self.busy.values()], 0.5):
                _, job = self.busy.pop(id(worker))
                worker.close()
                if outcome.status == "failed":
                    unsaved.append(job.run.name)
        return [*unsaved, *(job.run.name for _, job in self.busy.values())]

    def _close(self) -> None:
        for worker in [*(w for w, _ in self.busy.values()), *(w for _, w in self.idle)]:
            worker.close()
        self.busy.clear()
        self.idle.clear()
