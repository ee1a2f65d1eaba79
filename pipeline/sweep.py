"""The runs of a study on the slots of a machine: the longest first, each once, failures retried.

The scheduler knows gangs only by what it needs of them (``Worker``), so that it can be shown to be
right with simulated ones. What a run did is read from its journal, never from its worker's word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from launch.config import ParallelConfig, RunConfig
from launch.journal import Status, read_progress

DONE: tuple[Status, ...] = ("finished", "diverged")


class Worker(Protocol):
    """A gang of ranks that trains one run after another."""

    def submit(self, config: RunConfig, folder: Path) -> None:
        """Begin a run, or go on with it; returns at once."""

    def stop(self) -> None:
        """Ask the current run to save its state and end as ``preempted``."""

    def close(self) -> None:
        """End the worker and free its place, whatever it is doing."""


class Outcome(Protocol):
    """How a worker's run ended."""

    @property
    def status(self) -> Status:
        """finished, diverged, failed, preempted or cancelled."""

    @property
    def reason(self) -> str:
        """Why, in one line, where it did not finish."""

    @property
    def is_worker_sound(self) -> bool:
        """Whether the worker may train the next run."""


W = TypeVar("W", bound=Worker)


@dataclass
class Job:
    """A run, where it lives, how long it should take, and how often it was tried here."""

    run: RunConfig
    folder: Path
    expected: float
    tries: int = 0
    began: float = 0.0


@dataclass
class Sweep(Generic[W]):
    """Trains every job to its end, ``slots`` ranks at a time.

    ``open_worker`` starts a gang of a shape; ``wait_any`` returns those that have ended a run, with
    their outcomes; ``on_change`` is told of every start and end.
    """

    slots: int
    retries: int
    open_worker: Callable[[ParallelConfig], W]
    wait_any: Callable[[Sequence[W], float], Sequence[tuple[W, Outcome]]]
    on_change: Callable[[Sweep[W]], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None
    queue: list[Job] = field(default_factory=list)
    busy: dict[int, tuple[W, Job]] = field(default_factory=dict)
    idle: list[tuple[ParallelConfig, W]] = field(default_factory=list)
    ended: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)

    def run(self, jobs: Sequence[Job], patience: float = 1.0) -> None:
        """Train ``jobs``; on an interruption every run saves its state before this returns.

        Raises:
            KeyboardInterrupt: it was interrupted, and the runs have been stopped.
        """
        self.queue = sorted(jobs, key=lambda job: -job.expected)
        try:
            while self.queue or self.busy:
                self._fill()
                workers = [worker for worker, _ in self.busy.values()]
                for worker, outcome in self.wait_any(workers, patience):
                    self._end(worker, outcome)
                self.on_change(self)
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            self._close()

    @property
    def expected_left(self) -> float:
        """Expected core seconds of what has not ended."""
        now = time.monotonic()
        running = sum(max(job.expected - (now - job.began), 0) for _, job in self.busy.values())
        return running + sum(job.expected for job in self.queue)

    def _free(self) -> int:
        return self.slots - sum(job.run.parallel.ranks for _, job in self.busy.values())

    def _fill(self) -> None:
        """Start the longest jobs that fit; none is overtaken by a shorter one of its size."""
        for job in list(self.queue):
            if job.run.parallel.ranks > self._free():
                continue
            self.queue.remove(job)
            worker = self._worker(job.run.parallel)
            job.tries, job.began = job.tries + 1, time.monotonic()
            self.busy[id(worker)] = (worker, job)
            worker.submit(job.run, job.folder)

    def _worker(self, shape: ParallelConfig) -> W:
        """A warm worker of this shape, or a new one in the place of idle ones of other shapes."""
        for position, (held, worker) in enumerate(self.idle):
            if held == shape:
                del self.idle[position]
                return worker
        while self.idle and self._free() < shape.ranks + sum(held.ranks for held, _ in self.idle):
            self.idle.pop()[1].close()
        return self.open_worker(shape)

    def _end(self, worker: W, outcome: Outcome) -> None:
        _, job = self.busy.pop(id(worker))
        if outcome.is_worker_sound:
            self.idle.append((job.run.parallel, worker))
        else:
            worker.close()
        if outcome.status in DONE:
            self.ended.append(job)
            if outcome.status == "diverged":
                self.say(f"{job.run.name} diverged: {outcome.reason}")
        elif job.tries <= self.retries:
            self.say(f"{job.run.name} {outcome.status}: {outcome.reason}; trying again")
            self.queue.insert(0, job)
        else:
            self.failed.append(job)
            self.say(f"{job.run.name} {outcome.status} after {job.tries} tries: {outcome.reason}")

    def _stop(self) -> None:
        for worker, _ in self.busy.values():
            worker.stop()
        deadline = time.monotonic() + 20
        while self.busy and time.monotonic() < deadline:
            workers = [worker for worker, _ in self.busy.values()]
            for worker, _ in self.wait_any(workers, 0.5):
                worker.close()
                del self.busy[id(worker)]

    def _close(self) -> None:
        for worker in [*(w for w, _ in self.busy.values()), *(w for _, w in self.idle)]:
            worker.close()
        self.busy.clear()
        self.idle.clear()


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """Those whose journals do not say that they are over."""
    return [job for job in jobs if read_progress(job.folder).status not in DONE]
