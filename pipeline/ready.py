"""A study made ready: its tokens, its plan, and what that will take, before anything is trained."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from data.loader import Exposure
from data.prepare import Prepared, Progress, prepare
from pipeline import show
from pipeline.config import Study, fingerprint
from pipeline.job import Job, unfinished
from pipeline.machine import Machine
from pipeline.packing import makespan
from pipeline.plan import PLAN, Plan, Tokens, as_dict
from pipeline.planner import make_plan
from pipeline.preflight import START_SECONDS, expected_seconds
from pipeline.progress import Task, task
from pipeline.proposals import read_proposals
from pipeline.requirements import check_disk, check_memory, checkpoint_bytes, exposures
from pipeline.rules import told
from pipeline.tables import short
from pipeline.training import jobs


@dataclass(frozen=True)
class Ready:
    """A study that may start, and what it will take.

    ``seconds`` are those of each run by fingerprint, ``wall`` of all that is ``left``; ``memory``
    is the most that a rank holds and ``disk`` what the checkpoints will take, in bytes;
    ``sources`` what the longest run sees of each part of a mixture; ``price`` is of a device for an
    hour; ``basis`` tells what the seconds rest on.
    """

    plan: Plan
    devices: float
    seconds: dict[str, float]
    left: list[Job]
    wall: float
    memory: float
    disk: float
    sources: tuple[Exposure, ...] = ()
    price: float | None = None
    basis: str = ""

    @property
    def device_hours(self) -> float:
        """Of the runs that are left."""
        return sum(job.expected * job.width for job in self.left) / 3600

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return as_dict(self.plan) | {
            "slots": self.devices,
            "seconds": self.seconds,
            "left": len(self.left),
            "wall_seconds": self.wall,
            "device_hours": self.device_hours,
            "money": self.price and self.price * self.device_hours,
            "rank_bytes": self.memory,
            "checkpoint_bytes": self.disk,
            "sources": [source._asdict() for source in self.sources],
        }


def make_ready(
    study: Study,
    console: Console,
    machine: Machine,
    price: float | None = None,
    is_written: bool = True,
) -> Ready:
    """Prepare the tokens, plan, measure and show; write the plan unless told not to.

    Raises:
        StudyError: nothing can be run as asked; or it fits into no memory, or on no disk.
    """
    prepared = _prepare(study, console, machine)
    if price is None and machine.cluster:
        price = machine.cluster.price_per_gpu_hour
    with task(console, "plan") as work:
        plan = make_plan(study, Tokens.of(prepared), read_proposals(study))
        work.update(0.1, "memory and disk")
        pending = unfinished(jobs(study, plan, defaultdict(float)))
        wanted = [job.run for job in pending]
        memory, disk = check_memory(wanted, machine.device_bytes), checkpoint_bytes(wanted)
        check_disk(study.folder, disk)
        if is_written:
            plan.write(study.folder / PLAN)
        work.update(0.2, "measuring this machine")
        seconds, basis = expected_seconds(study, plan, machine.slots, machine.gpu)
        work.update(1, f"{len(plan.runs)} runs, {plan.flops:.3g} training FLOPs")
    for job in pending:
        job.expected = seconds[job.run.fingerprint()]
    devices = machine.devices()
    wall = makespan(pending, devices) + (START_SECONDS if pending else 0.0)
    sources = exposures(plan)
    ready = Ready(plan, devices, seconds, pending, wall, memory, disk, sources, price, basis)
    console.print(show.preflight(ready, told(study.rules)))
    for line in show.skipped(plan):
        console.print(line, markup=False)
    return ready


def _prepare(study: Study, console: Console, machine: Machine) -> Prepared:
    """The token stores; Ray is started only when this study has not prepared this corpus before."""
    key = fingerprint(
        [study.corpus.model_dump(mode="json"), study.tokenizer.model_dump(mode="json")]
    )
    mark = study.folder / "prepared"
    is_known = mark.is_file() and mark.read_text() == key
    with task(console, "tokens") as work:
        if not is_known:
            work.update(0, "starting Ray")
            machine.start()
        workers = 0 if is_known else machine.slots
        prepared = prepare(
            study.corpus, study.tokenizer, study.cache, workers, lambda p: _show_tokens(work, p)
        )
        mark.write_text(key)
        text = prepared.train_tokens * prepared.bytes_per_token
        work.update(
            1,
            f"{short(prepared.train_tokens)} training tokens of {text / 1e6:.1f} MB, "
            f"vocabulary {prepared.vocab_size}, {prepared.bytes_per_token:.2f} bytes a token",
            total=1,
        )
    return prepared


def _show_tokens(work: Task, progress: Progress) -> None:
    rate = f", {progress.bytes_per_second / 1e6:.1f} MB/s" if progress.bytes else ""
    work.update(progress.done, f"{progress.stage}{rate}", total=progress.total)
