"""Where a study stands, from its plan and the tails of its journals: for thousands of runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.live import Live

from launch.journal import DONE
from launch.tail import read_tail
from pipeline.errors import StudyError, nearest
from pipeline.job import PAUSED, SWEEP
from pipeline.kept import spoken
from pipeline.lease import Leader, Lookout, leader
from pipeline.plan import PLAN, read_rows
from pipeline.runs import folder_of
from pipeline.show import driven
from pipeline.show import status as status_table

REFRESH_SECONDS = 2.0
STALE_SECONDS = 30.0
"""A sweep that has not told of itself for so long has ended."""
CUT_OFF = {"running": "stopped", "queued": "planned"}
"""What a journal calls so of a study that nobody runs: whoever ran it could not write the end."""


class Placed(Protocol):
    """What has a study's folder: the study itself, or what is known of one of a cluster."""

    @property
    def folder(self) -> Path:
        """Where everything of the study lives."""


def status_rows(study: Placed, is_run: bool | None = None) -> list[dict[str, Any]]:
    """One mapping a run: what it is and what came of it; absent values are null."""
    is_run = leader(study.folder) is not None if is_run is None else is_run
    rows = read_rows(study.folder / PLAN)
    for row in rows:
        row |= read_tail(folder_of(study.folder, row["run"], row["fingerprint"])).columns()
        if not is_run:
            row["status"] = CUT_OFF.get(row["status"], row["status"])
    return rows


def read_sweep(study: Placed) -> dict[str, Any] | None:
    """What the driver of the study last told of its sweep, if one is at work."""
    try:
        told: dict[str, Any] = json.loads((study.folder / SWEEP).read_text())
    except (OSError, ValueError):
        return None
    return told if time.time() - told["updated"] < STALE_SECONDS else None


def show_status(study: Placed, console: Console, watch: bool) -> None:
    """The table of all runs, once, or refreshed for as long as somebody runs the study."""
    lookout = Lookout(study.folder)
    if not (watch and console.is_terminal):
        console.print(_page(study, lookout.leader()))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            leads = lookout.leader()
            live.update(_page(study, leads), refresh=True)
            if leads is None:
                return
            time.sleep(REFRESH_SECONDS)


def nobody_runs(study: Placed) -> str:
    """Of a study of which something is left to do."""
    return f"nobody runs it now: `isoflop run {spoken(study.folder)}` goes on"


def pause(study: Placed, off: bool) -> str:
    """Ask who runs the study to hold its runs, or to go on; returns what comes of it, in words.

    Raises:
        StudyError: there is no such study.
    """
    folder, name = study.folder, study.folder.name
    if not folder.is_dir():
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{PLAN}"))
        raise StudyError(
            f"study '{name}': {folder} is not there, as it was never run; studies there: "
            f"{', '.join(known) or 'none'}{nearest(name, known)}"
        )
    is_run = leader(folder) is not None
    if off:
        (folder / PAUSED).unlink(missing_ok=True)
        return f"{name}: goes on" if is_run else f"{name}: not held; {nobody_runs(study)}"
    (folder / PAUSED).touch()
    what = "its runs save their state and free their slots" if is_run else "whoever runs it waits"
    return f"{name}: {what}, until `isoflop pause {spoken(folder)} --off`"


def _page(study: Placed, leads: Leader | None) -> RenderableType:
    name = study.folder.name
    if leads and not (study.folder / PLAN).exists():
        return f"{name}: no plan yet; {leads} prepares its tokens"
    rows = status_rows(study, is_run=leads is not None)
    return status_table(rows, *_notes(study, leads, rows))


def _notes(study: Placed, leads: Leader | None, rows: list[dict[str, Any]]) -> list[str]:
    """Who runs the study, and how that goes; nothing once all of it is done."""
    if leads is None:
        return [] if all(row["status"] in DONE for row in rows) else [nobody_runs(study)]
    sweep = read_sweep(study)
    return [f"run by {leads}", *([driven(spoken(study.folder), sweep)] if sweep else [])]
