"""A study from its YAML to its laws: tokens, plan, sweep, fit, track; every stage resumes."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from data.prepare import Prepared, Progress, prepare
from launch.journal import read_run
from pipeline import show
from pipeline.cluster_file import Cluster
from pipeline.config import Study, fingerprint
from pipeline.errors import StudyError
from pipeline.fits import fit_table, fitted
from pipeline.forwarder import Forwarder
from pipeline.grids.base import short
from pipeline.lease import Lease, leading
from pipeline.machine import Machine
from pipeline.plan import Plan, Tokens
from pipeline.planner import make_plan
from pipeline.preflight import expected_seconds, makespan
from pipeline.progress import Task, task
from pipeline.publish import publish
from pipeline.records import table, write_table
from pipeline.rules import source
from pipeline.runs import run_folder
from pipeline.sweep import Job, Sweep, unfinished
from pipeline.tracking import Tracker


@dataclass(frozen=True)
class Ready:
    """A study that may start: its plan, the slots, and the expected seconds by run and in all."""

    plan: Plan
    slots: int
    seconds: dict[str, float]
    wall: float


def run_study(
    study: Study, console: Console, slots: int | None = None, cluster: Cluster | None = None
) -> dict[str, Any]:
    """Do whatever of the study is not done yet, and show what came of it.

    Raises:
        BusyError: another process leads this study.
        LostLeadError: another process took the lead of it.
        StudyError: a run failed for good, or nothing finished.
    """
    say = partial(console.print, markup=False)
    with leading(study.folder) as lease, Machine(study, slots, cluster, say) as machine:
        ready = _preflight(study, console, machine)
        _train(study, console, machine, ready, lease)
        return _fit(study, console, ready.plan)


def preflight(study: Study, console: Console, slots: int | None = None) -> Ready:
    """Prepare the tokens, plan, measure and show; train nothing."""
    with leading(study.folder), Machine(study, slots) as machine:
        return _preflight(study, console, machine)


def fit_study(study: Study, console: Console) -> dict[str, Any]:
    """Fit the laws to what is finished.

    Raises:
        StudyError: the study has no plan, or no finished run.
    """
    with leading(study.folder):
        return _fit(study, console, read_plan(study))


def read_plan(study: Study) -> Plan:
    """The plan that ``isoflop run`` or ``isoflop plan`` wrote."""
    return Plan.read(study.folder / "plan.json")


def jobs(study: Study, plan: Plan, seconds: dict[str, float]) -> list[Job]:
    """Every run of the plan with its folder and expected seconds."""
    return [Job(run, run_folder(study, run), seconds[run.fingerprint()]) for run in plan.runs]


def _preflight(study: Study, console: Console, machine: Machine) -> Ready:
    prepared = _prepare(study, console, machine)
    with task(console, "plan") as work:
        plan = make_plan(study, Tokens.of(prepared))
        plan.write(study.folder / "plan.json")
        work.update(0.2, "measuring this machine")
        seconds = expected_seconds(plan, machine.slots, study.folder / "preflight.json")
        work.update(1, f"{len(plan.runs)} runs, {plan.flops:.3g} training FLOPs")
    left = unfinished(jobs(study, plan, seconds))
    workers = max(machine.slots // study.parallel.ranks, 1)
    wall = makespan([job.expected for job in left], workers)
    console.print(show.preflight(plan, source(study.rule), seconds, len(left), machine.slots, wall))
    for line in show.skipped(plan):
        console.print(line, markup=False)
    return Ready(plan, machine.slots, seconds, wall)


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


def _train(study: Study, console: Console, machine: Machine, ready: Ready, lease: Lease) -> None:
    left = unfinished(jobs(study, ready.plan, ready.seconds))
    if not left:
        return
    from launch import gang

    machine.start()
    total = sum(job.expected for job in left)
    say = partial(console.print, markup=False)
    with task(console, "train", total) as work:
        sweep = Sweep(
            slots=machine.slots,
            retries=study.train.retries,
            open_worker=partial(gang.Gang, epoch=lease.epoch),
            wait_any=gang.wait_any,
            on_change=lambda sweep: _show_sweep(work, sweep, len(left)),
            say=say,
        )
        with Forwarder(tracker(study), study.folder / "runs", say):
            sweep.run(left)
        lease.check()
        busy = _record_sweep(study, sweep, work.elapsed, lease.epoch)
        work.update(total, f"{len(sweep.ended)} runs ended; slots training {busy:.0%} of the time")
    if sweep.failed:
        names = ", ".join(f"{job.run.name} ({job.folder})" for job in sweep.failed)
        raise StudyError(f"{len(sweep.failed)} runs failed for good: {names}")


def _record_sweep(study: Study, sweep: Sweep[Any], wall: float, epoch: int) -> float:
    """Add a line to ``sweeps.jsonl``; the share of the slots' time that went into training."""
    ends = [read_run(job.folder).end for job in sweep.ended]
    trained = sum(end.train_seconds or 0.0 for end in ends if end)
    busy = trained / (sweep.slots * wall)
    line = {"ended": time.time(), "epoch": epoch, "slots": sweep.slots, "runs": len(ends)}
    line |= {"wall_seconds": wall, "train_seconds": trained, "busy": busy}
    with (study.folder / "sweeps.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return busy


def _show_sweep(work: Task, sweep: Sweep[Any], runs: int) -> None:
    over = len(sweep.ended) + len(sweep.failed)
    names = ", ".join(job.run.name for _, job in sweep.busy.values())
    work.update(work.total - sweep.expected_left, f"{over} of {runs} runs ended; now {names}")


def _fit(study: Study, console: Console, plan: Plan) -> dict[str, Any]:
    frame = table(study, plan)
    write_table(frame, study.folder / "table.csv")
    if not (frame["status"] == "finished").any():
        raise StudyError(f"study '{study.name}': no run is finished; `isoflop run` trains them")
    with task(console, "fit") as work:
        document = fitted(study, frame)
        if document is None:
            work.update(0, f"{study.fit.resamples} resamples")
            document = fit_table(study, plan, frame)
        work.update(1, f"laws of {', '.join(document['analysis']['architectures'])}")
    publish(tracker(study), document["analysis"], partial(console.print, markup=False))
    console.print(show.summary(study, document["analysis"]))
    return document


def tracker(study: Study) -> Tracker:
    """The study's experiment in its store."""
    return Tracker(study.mlflow, study.folder, study.name)
