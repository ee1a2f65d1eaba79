"""The table of a study: one typed row a run, read from its plan and its journal alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from launch.config import RunConfig
from launch.journal import RunRecord, read_run
from pipeline.atomic import write_text
from pipeline.config import Study
from pipeline.plan import Plan
from pipeline.runs import row, run_folder


def table(study: Study, plan: Plan) -> pd.DataFrame:
    """Every planned run with what it is and what came of it; ``loss`` only where it finished."""
    return pd.DataFrame([record(run, read_run(run_folder(study, run))) for run in plan.runs])


def record(run: RunConfig, journal: RunRecord) -> dict[str, Any]:
    """A run's row: the plan's columns, then status, held-out loss, speed and time."""
    finished = journal.status == "finished"
    last = journal.evals[-1] if journal.evals else None
    point = journal.points[-1] if journal.points else None
    rates = [p.tokens_per_second for p in journal.points if p.tokens_per_second]
    return row(run) | {
        "status": journal.status,
        "attempts": len(journal.attempts),
        "reason": journal.end.reason if journal.end else "",
        "steps_done": max([0, *(p.step for p in journal.points), *(e.step for e in journal.evals)]),
        "loss": last.loss if finished and last else None,
        "bits_per_byte": last.bits_per_byte if finished and last else None,
        "train_loss": point.loss if point else None,
        "tokens_per_second": sum(rates) / len(rates) if rates else None,
        "mfu": point.mfu if point else None,
        "train_seconds": journal.end.train_seconds if journal.end else None,
    }


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
