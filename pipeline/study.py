"""A study from its YAML to its laws: tokens, plan, sweep, fit, track; every stage resumes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
from rich.console import Console

from pipeline import show
from pipeline.cluster_file import Cluster
from pipeline.config import Study
from pipeline.errors import BusyError, StudyError
from pipeline.fits import fit_table, fitted
from pipeline.grids import AdaptiveGrid
from pipeline.kept import STUDY, is_kept, keep
from pipeline.lease import leading
from pipeline.machine import Machine
from pipeline.plan import PLAN, Plan
from pipeline.planner import make_plan
from pipeline.progress import task
from pipeline.proposals import read_proposals, write_proposals
from pipeline.publish import publish, send
from pipeline.ready import Ready, make_ready
from pipeline.records import table, write_table
from pipeline.summary import summary
from pipeline.tables import listed
from pipeline.training import Trained, tracker, train


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
        keep(study)
        device_seconds = math.inf if device_hours is None else 3600 * device_hours
        while True:
            ready = make_ready(study, console, machine)
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
        if is_ours:
            keep(study)
        ready = make_ready(study, console, machine, price, is_ours)
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
    plan = Plan.read(study.folder / PLAN)
    try:
        with leading(study.folder):
            return _fit(study, console, plan)
    except BusyError as busy:
        console.print(f"{str(busy).partition(';')[0]}, who tells MLflow", markup=False)
        return _fit(study, console, plan, is_sent=False)


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


def _fit(study: Study, console: Console, plan: Plan, is_sent: bool = True) -> dict[str, Any]:
    frame = table(study, plan)
    write_table(frame, study.folder / "table.csv")
    counts = frame["status"].value_counts()
    if "finished" not in counts:
        others = ", ".join(f"{count} {status}" for status, count in counts.items())
        raise StudyError(
            f"study '{study.name}': no run is finished ({others}); `isoflop run` goes on with them"
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
