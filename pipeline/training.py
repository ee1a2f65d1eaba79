"""The training stage: the runs that are left, on the devices of the machine, followed on disk."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from launch.tail import read_tail
from pipeline.atomic import write_text
from pipeline.config import Study
from pipeline.forwarder import Forwarder
from pipeline.job import PAUSED, SWEEP, Job
from pipeline.lease import Lease
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.progress import Task, task
from pipeline.runs import run_folder, width
from pipeline.sweep import Sweep
from pipeline.tables import duration
from pipeline.tracking import Tracker

RECORD_SECONDS = 2.0


@dataclass(frozen=True)
class Trained:
    """What a sweep took, the runs that its device-seconds did not suffice for, and those failed."""

    device_seconds: float = 0.0
    left: tuple[Job, ...] = ()
    failed: tuple[Job, ...] = ()


def jobs(study: Study, plan: Plan, seconds: dict[str, float]) -> list[Job]:
    """Every run of the plan with its folder, its devices and expected seconds, its priority."""
    priorities = {
        name: study.architectures[variant.family].priority
        for name, variant in study.variants.items()
    }
    return [
        Job(
            run=run,
            folder=run_folder(study, run),
            expected=seconds[run.fingerprint()],
            width=width(run),
            priority=priorities[str(run.labels["architecture"])],
        )
        for run in plan.runs
    ]


def train(
    study: Study,
    console: Console,
    machine: Machine,
    left: Sequence[Job],
    lease: Lease,
    device_seconds: float = math.inf,
) -> Trained:
    """Train of what is left as much as should end within ``device_seconds``."""
    from launch import gang

    machine.start()
    say = partial(console.print, markup=False)
    total = sum(job.expected * job.width for job in left)
    with task(console, "train", total) as work:
        shown = Shown(study.folder / SWEEP, work, len(left))
        sweep = Sweep(
            capacity=machine.devices,
            retries=study.train.retries,
            open_worker=partial(gang.Gang, epoch=lease.epoch),
            wait_any=gang.wait_any,
            device_seconds=device_seconds,
            is_paused=(study.folder / PAUSED).exists,
            on_change=shown,
            say=say,
        )
        with Forwarder(tracker(study), study.folder / "runs", say):
            sweep.run(left)
        lease.check()
        busy = _record(study, sweep, work.elapsed, lease.epoch)
        work.update(total, f"{len(sweep.ended)} runs ended; slots training {busy:.0%} of the time")
    return Trained(sweep.spent, (*sweep.queue, *sweep.waiting), tuple(sweep.failed))


def tracker(study: Study) -> Tracker:
    """The study's experiment in its store."""
    return Tracker(study.mlflow, study.folder, study.name, study.artifacts)


class Shown:
    """Tells a sweep's state to the terminal, and to ``sweep.json`` every few seconds."""

    def __init__(
        self, path: Path, work: Task, runs: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path, self.work, self.runs, self.clock = path, work, runs, clock
        self._written = -math.inf
        self._first: dict[tuple[str, float], tuple[float, int]] = {}

    def __call__(self, sweep: Sweep[Any]) -> None:
        """Show it, what is expected of the runs revised by how far they are."""
        is_due = self.clock() - self._written > RECORD_SECONDS
        if is_due:
            self._first = {_attempt(job): self._revise(job) for _, job in sweep.busy.values()}
        over = len(sweep.ended) + len(sweep.failed)
        names = ", ".join(job.run.name for _, job in sweep.busy.values()) or "nothing"
        left = sweep.seconds_left
        when = f", about {duration(left)} left" if math.isfinite(left) else ""
        note = f"{over} of {self.runs} runs ended{when}; now {names}"
        self.work.update(sweep.spent, note, total=sweep.spent + sweep.area_left)
        if is_due or not (sweep.busy or sweep.queue):
            self._written = self.clock()
            write_text(self.path, json.dumps(sweep.record()) + "\n")

    def _revise(self, job: Job) -> tuple[float, int]:
        """Expect of a run what its own pace says since it was first looked at: when, at a step."""
        now, step = self.clock(), read_tail(job.folder).step
        began, first = self._first.get(_attempt(job), (now, step))
        if step > first:
            left = (job.run.train.steps - step) * (now - began) / (step - first)
            job.expected = now - job.began + left
        return began, first


def _attempt(job: Job) -> tuple[str, float]:
    return job.run.name, job.began


def _record(study: Study, sweep: Sweep[Any], wall: float, epoch: int) -> float:
    """Add a line to ``sweeps.jsonl``; the share of the devices' time that went into training."""
    tails = [(job, read_tail(job.folder)) for job in sweep.ended]
    trained = sum((tail.train_seconds or 0.0) * job.width for job, tail in tails)
    busy = trained / (sweep.devices * wall) if sweep.devices else 0.0
    line = {"ended": time.time(), "epoch": epoch, "slots": sweep.devices, "runs": len(tails)}
    line |= {"wall_seconds": wall, "train_seconds": trained, "busy": busy}
    with (study.folder / "sweeps.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return busy
