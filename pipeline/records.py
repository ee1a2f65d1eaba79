"""The table of a study: one typed row a run, read from its plan and its journal alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from launch.config import RunConfig
from launch.journal import RunRecord, read_run
from launch.tail import read_tail
from pipeline.atomic import write_text
from pipeline.config import Study
from pipeline.plan import Plan
from pipeline.runs import row, run_folder


def table(study: Study, plan: Plan) -> pd.DataFrame:
    """Every planned run with what it is and what came of it; ``loss`` only where it finished."""
    return pd.DataFrame([record(run, run_folder(study, run)) for run in plan.runs])


def record(run: RunConfig, folder: Path) -> dict[str, Any]:
    """A run's row: the plan's columns, then status, held-out loss, speed and time."""
    return row(run) | read_tail(folder).columns()


def curves(study: Study, plan: Plan) -> pd.DataFrame:
    """Losses along every run, a row each point: the plan's columns, step, tokens, flops, loss."""
    rows = [
        row(run)
        | {"step": e.step, "tokens": e.tokens, "flops": e.flops, "loss": e.loss, "kind": kind}
        for run in plan.runs
        for kind, points in _points(read_run(run_folder(study, run)))
        for e in points
    ]
    return pd.DataFrame(rows)


def _points(journal: RunRecord) -> list[tuple[str, Any]]:
    return [("heldout", journal.evals), ("train", journal.points)]


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """The table as CSV, atomically."""
    write_text(path, frame.to_csv(index=False))
