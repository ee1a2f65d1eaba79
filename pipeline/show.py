"""What a study says on a terminal: the preflight, the live status, the fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from pipeline.plan import Plan, row, short

STATUS_STYLE = {
    "finished": "green",
    "running": "cyan",
    "diverged": "red",
    "failed": "red",
    "preempted": "yellow",
}


def new_table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    """A plain table; all but the first ``left`` columns hold numbers."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < left else "right", no_wrap=True)
    return table


def preflight(plan: Plan, seconds: dict[str, float], slots: int, wall: float) -> Table:
    """What the plan will do, before it does it: one line for each architecture and budget."""
    title = f"{len(plan.runs)} runs on {slots} slots, about {duration(wall)} of training"
    columns = [
        "architecture",
        "budget",
        "runs",
        "parameters",
        "tokens",
        "tokens/param",
        "epochs",
        "steps",
        "est.",
    ]
    table = new_table(title, columns)
    rows = [row(run) | {"seconds": seconds[run.fingerprint()]} for run in plan.runs]
    for (architecture, budget), group in groupby(
        rows, key=lambda r: (r["architecture"], r["budget"])
    ):
        runs = list(group)
        table.add_row(
            architecture,
            f"{budget:.3g}",
            str(len(runs)),
            _range([r["params"] for r in runs]),
            _range([r["tokens"] for r in runs]),
            _range([r["tokens"] / r["params"] for r in runs]),
            f"{max(r['epochs'] for r in runs):.2f}",
            _range([r["steps"] for r in runs]),
            duration(sum(r["seconds"] for r in runs)),
        )
    table.add_section()
    tokens = sum(r["tokens"] for r in rows)
    table.add_row(
        "all",
        f"{plan.flops:.3g}",
        str(len(rows)),
        "",
        short(tokens),
        "",
        "",
        "",
        duration(sum(seconds.values())),
    )
    table.caption = (
        f"unique training tokens {short(plan.unique_tokens)}; budget in training FLOPs, exact; "
        "est. in core time, from a short measurement"
    )
    table.caption_justify = "left"
    return table


def skipped(plan: Plan) -> Iterable[str]:
    """A line for each point of the grid that is not run, and why."""
    for point in plan.skipped:
        yield (
            f"not planned: {point.architecture} at {point.budget:.3g}, "
            f"{short(point.params)}: {point.detail}"
        )


def status(frame: pd.DataFrame, expected: dict[str, float]) -> Table:
    """Every run, in the order of the plan."""
    columns = [
        "run",
        "status",
        "step",
        "of",
        "loss",
        "bits/byte",
        "tokens/s",
        "MFU",
        "seconds",
        "expected",
    ]
    table = new_table("", columns, left=2)
    for record in frame.to_dict("records"):
        style = STATUS_STYLE.get(record["status"], "dim")
        table.add_row(
            record["run"],
            f"[{style}]{record['status']}[/]",
            str(record["steps_done"]),
            str(record["steps"]),
            number(record["loss"] if present(record["loss"]) else record["train_loss"], ".4f"),
            number(record["bits_per_byte"], ".4f"),
            number(record["tokens_per_second"], ",.0f"),
            number(record["mfu"], ".1%"),
            number(record["train_seconds"], ".1f"),
            number(expected.get(record["fingerprint"]), ".1f"),
        )
    counts = frame["status"].value_counts().to_dict()
    table.caption = ", ".join(f"{count} {name}" for name, count in counts.items())
    table.caption_justify = "left"
    return table


def present(value: Any) -> bool:
    """Neither None nor NaN."""
    return value is not None and value == value


def number(value: Any, form: str) -> str:
    """``value`` in a format, or a dash where there is none."""
    return format(value, form) if present(value) else "–"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return short(low) if short(low) == short(high) else f"{short(low)}–{short(high)}"
