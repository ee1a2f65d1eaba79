"""A study from its YAML to its laws: tokens, plan, sweep, fit, track; every stage resumes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from rich.console import Console

from data.loader import Exposure
from data.prepare import Prepared, Progress, prepare
from pipeline import show
from pipeline.cluster_file import Cluster
from pipeline.config import Study, fingerprint
from pipeline.errors import BusyError, StudyError
from pipeline.fits import fit_table, fitted
from pipeline.grids import AdaptiveGrid
from pipeline.job import Job, unfinished
from pipeline.kept import STUDY, is_kept, keep
from pipeline.lease import leading
from pipeline.machine import Machine
from pipeline.packing import makespan
from pipeline.plan import PLAN, Plan, Tokens, as_dict
from pipeline.planner import make_plan
from pipeline.preflight import START_SECONDS, expected_seconds
from pipeline.progress import Task, task
from pipeline.proposals import read_proposals, write_proposals
from pipeline.publish import publish, send
from pipeline.records import table, write_table
from pipeline.requirements import check_disk, check_memory, checkpoint_bytes, exposures
from pipeline.rules import told
from pipeline.summary import summary
from pipeline.tables import listed, short
from pipeline.training import Trained, jobs, tracker, train


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


def run_study(
    study: Study,
    console: Console,
    slots: int | None = None,
    cluster: Cluster | None = None,
    device_hours: float | None = None,
) -> dict[str, Any]:
    """Do whatever of the study is not done yet, and show what came of it.

    Training stops within ``device_hours``; the laws are those of what has finished by then.

    Raises:
        BusyError: another process leads this study.
        LostLeadError: another process took the lead of it.
        StudyError: nothing finished; or runs failed for good, which the laws are without.
    """
    say = partial(console.print, markup=False)
    with (
        leading(study.folder, say=say) as lease,
        Machine(study, slots, cluster, say) as machine,
    ):
        device_seconds = math.inf if device_hours is None else 3600 * device_hours
        while True:
            ready = _preflight(study, console, machine)
            trained = Trained()
            if ready.left:
                trained = train(study, console, machine, ready.left, lease, device_seconds)
                device_seconds -= trained.device_seconds
            try:
                document = _fit(study, console, ready.plan)
            finally:
                for line in show.cut_short(trained.left):
                    say(line)
            if trained.failed:
                names = listed([f"{job.run.name} ({job.folder})" for job in trained.failed])
                raise StudyError(
                    f"study '{study.name}': the laws are without {len(trained.failed)} runs that "
                    f"failed for good, which the same command tries again: {names}"
                )
            if trained.left or not _next_round(study, console, ready.plan):
                return document


def preflight(
    study: Study,
    console: Console,
    slots: int | None = None,
    price: float | None = None,
    cluster: Cluster | None = None,
) -> Ready:
    """Prepare the tokens, plan, measure and show; train nothing.

    With ``cluster`` the plan is held against what its file says, and it is not joined. The plan is
    not written where runs of another study of this name are: they would be of no plan.
    """
    with leading(study.folder), Machine(study, slots, cluster, planned=True) as machine:
        is_ours = not any(study.folder.glob("runs/*")) or is_kept(study)
        ready = _preflight(study, console, machine, price, is_ours)
    if not is_ours:
        console.print(
            f"not written: {study.folder} has runs of the study in {STUDY} there, another than "
            f"this; `isoflop run` would go on with this one, and name=… keeps both",
            markup=False,
        )
    return ready


def fit_study(study: Study, console: Console) -> dict[str, Any]:
    """Fit the laws to what is finished, also while the study is run: journals are read alone.

    MLflow is then left to whoever runs it, since two that send it the same runs make them twice.

    Raises:
        StudyError: the study has no plan, or no finished run.
    """
    plan = read_plan(study)
    try:
        with leading(study.folder):
            return _fit(study, console, plan)
    except BusyError as busy:
        console.print(f"{str(busy).partition(';')[0]}, who tells MLflow", markup=False)
        return _fit(study, console, plan, is_sent=False)


def read_plan(study: Study) -> Plan:
    """The plan that ``isoflop run`` or ``isoflop plan`` wrote."""
    return Plan.read(study.folder / PLAN)


def _preflight(
    study: Study,
    console: Console,
    machine: Machine,
    price: float | None = None,
    is_written: bool = True,
) -> Ready:
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
            keep(study)
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


def _next_round(study: Study, console: Console, plan: Plan) -> bool:
    """Whether an adaptive study has proposed runs that can be planned."""
    if not isinstance(study.grid, AdaptiveGrid):
        return False
    from pipeline.law_files import fits_of
    from pipeline.rounds import propose

    table = pd.read_csv(study.folder / "table.csv")
    earlier = read_proposals(study)
    found, lines = propose(study, plan.tokens, fits_of(study), table, earlier)
    for line in lines:
        console.print(line, markup=False)
    proposals = [*earlier, *found]
    if not found or len(make_plan(study, plan.tokens, proposals).runs) == len(plan.runs):
        return False
    write_proposals(study, proposals)
    return True


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


def _fit(study: Study, console: Console, plan: Plan, is_sent: bool = True) -> dict[str, Any]:
    frame = table(study, plan)
    write_table(frame, study.folder / "table.csv")
    counts = frame["status"].value_counts()
    if "finished" not in counts:
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        raise StudyError(
            f"study '{study.name}': no run is finished ({told}); `isoflop run` goes on with them"
        )
    say = partial(console.print, markup=False)
    register = _scored(study, say)  # before the report tells of it
    with task(console, "fit") as work:
        document = fitted(study, frame)
        if document is None:
            work.update(0, f"{study.fit.resamples} resamples")
            document = fit_table(study, plan, frame)
        work.update(1, f"laws of {', '.join(document['analysis']['architectures'])}")
    if is_sent:
        publish(tracker(study), document["analysis"], say)
    console.print(summary(study, document))
    if register:
        from pipeline.forecasts import forecast_records, forecast_table

        console.print(forecast_table(register))
        if is_sent:
            send(tracker(study), forecast_records(register), say)
    return document


def _scored(study: Study, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The study's forecasts with what came of them; a register that cannot be read is told."""
    if not (study.folder / "forecasts").is_dir():
        return []
    from analysis.notices import AnalysisError
    from pipeline.forecasts import forecast_study

    try:
        return forecast_study(study, None, None)
    except AnalysisError as error:
        say(f"forecasts: {error}")
        return []
