"""Where a study stands, from its plan and the tails of its journals."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.console import Console
from rich.live import Live

from pipeline.config import Study
from pipeline.plan import Plan
from pipeline.records import table
from pipeline.show import status as status_table
from pipeline.sweep import DONE

REFRESH_SECONDS = 2.0


def status_rows(study: Study) -> list[dict[str, Any]]:
    """One mapping a run: what it is and what came of it; absent values are null."""
    frame = table(study, Plan.read(study.folder / "plan.json"))
    return list(json.loads(frame.to_json(orient="records")))


def show_status(study: Study, console: Console, watch: bool) -> None:
    """The table of all runs, once, or refreshed until every one has ended."""
    plan = Plan.read(study.folder / "plan.json")
    if not (watch and console.is_terminal):
        console.print(status_table(table(study, plan)))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            frame = table(study, plan)
            live.update(status_table(frame), refresh=True)
            if frame["status"].isin(DONE).all():
                return
            time.sleep(REFRESH_SECONDS)
