"""Where a study stands, from its plan and the tails of its journals: for thousands of runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live

from launch.journal import DONE
from launch.tail import read_tail
from pipeline.job import PAUSED, SWEEP
from pipeline.plan import read_rows
from pipeline.show import status as status_table

REFRESH_SECONDS = 2.0
STALE_SECONDS = 30.0
"""A sweep that has not told of itself for so long has ended, or its driver has."""


class Placed(Protocol):
    """What has a study's folder: the study itself, or what is known of one of a cluster."""

    @property
    def folder(self) -> Path:
        """Where everything of the study lives."""


def status_rows(study: Placed) -> list[dict[str, Any]]:
    """One mapping a run: what it is and what came of it; absent values are null."""
    runs = study.folder / "runs"
    rows = read_rows(study.folder / "plan.json")
    folders = [runs / f"{row['run']}-{row['fingerprint'][:8]}" for row in rows]
    return [row | read_tail(folder).columns() for row, folder in zip(rows, folders, strict=True)]


def read_sweep(study: Placed) -> dict[str, Any] | None:
    """What the driver of the study last told of its sweep, if one is at work."""
    try:
        told: dict[str, Any] = json.loads((study.folder / SWEEP).read_text())
    except (OSError, ValueError):
        return None
    return told if time.time() - told["updated"] < STALE_SECONDS else None


def show_status(study: Placed, console: Console, watch: bool) -> None:
    """The table of all runs, once, or refreshed until every one has ended."""
    if not (watch and console.is_terminal):
        console.print(_page(study, status_rows(study)))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            rows = status_rows(study)
            live.update(_page(study, rows), refresh=True)
            if all(row["status"] in DONE for row in rows):
                return
            time.sleep(REFRESH_SECONDS)


def pause(study: Placed, off: bool) -> None:
    """Ask the driver of the study to hold its runs, or to go on."""
    mark = study.folder / PAUSED
    if off:
        mark.unlink(missing_ok=True)
    else:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _page(study: Placed, rows: list[dict[str, Any]]) -> Group:
    return status_table(rows, read_sweep(study))
