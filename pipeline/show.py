"""What a study says on a terminal: the preflight, the live status, the fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table

from pipeline.config import Study
from pipeline.grids.base import short
from pipeline.plan import Plan
from pipeline.runs import row

STATUS_STYLE = {
    "finished": "green",
    "running": "cyan",
    "diverged": "red",
    "failed": "red",
    "preempted": "yellow",
}


def new_table(columns: Sequence[str], left: int = 1) -> Table:
    """A plain table; all but the first ``left`` columns hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < left else "right")
    return table


def titled(title: str, table: Table, *notes: str) -> Group:
    """A table under its title, with notes below."""
    return Group(f"[bold]{title}[/]", table, *(f"[dim]{note}[/]" for note in notes))


def preflight(
    plan: Plan, source: str, seconds: dict[str, float], left: int, slots: int, wall: float
) -> Group:
    """What the plan will do, before it does it: one line for each architecture and budget."""
    columns = ["", "FLOPs", "runs", "N", "D", "D/N", "epochs", "steps", "est."]
    table = new_table(columns)
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
    return titled(
        f"{len(plan.runs)} runs, {left} to do on {slots} slots, about {duration(wall)} of training",
        table,
        f"N: parameters ({plan.runs[0].labels['convention']}); D: tokens, of "
        f"{short(plan.tokens.unique)} unique; FLOPs: of training, exact",
        "est.: core time, from a short measurement of this machine",
        f"learning rate, batch, warm-up: {source}",
    )


def skipped(plan: Plan) -> Iterable[str]:
    """A line for each point of the grid that is not run, and why."""
    for point in plan.skipped:
        yield (
            f"not planned: {point.architecture} at {point.budget:.3g}, "
            f"{short(point.params)}: {point.detail}"
        )


def status(frame: pd.DataFrame) -> Group:
    """Every run, in the order of the plan."""
    columns = ["run", "status", "step", "of", "loss", "bits/byte", "tokens/s", "MFU", "seconds"]
    table = new_table(columns, left=2)
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
        )
    counts = frame["status"].value_counts().to_dict()
    return Group(table, ", ".join(f"{count} {name}" for name, count in counts.items()))


def summary(study: Study, analysis: dict[str, Any]) -> Group:
    """The laws side by side, what they recommend, the gains, and where to look."""
    largest = analysis["budgets"][-1]
    parts = [_laws(analysis), _allocations(analysis, largest)]
    if analysis["gains"]:
        parts.append(_gains(analysis))
    lines = [f"[yellow]{name}: {text}[/]" for name, text in _warnings(analysis)]
    lines += [
        f"plots   {study.folder / 'plots'}",
        f"table   {study.folder / 'table.csv'}",
        f"MLflow  isoflop ui {study.name}",
    ]
    return Group(*parts, *lines)


def _laws(analysis: dict[str, Any]) -> Group:
    table = new_table(["", "E", "alpha", "beta", "a, fit", "a, profiles", "runs"])
    for name, found in analysis["architectures"].items():
        fit, profiles = found["approach3"], found["approach2"]
        table.add_row(
            name,
            *(_parameter(fit, key) for key in ("E", "alpha", "beta")),
            interval(fit["derived"]["a"]) if fit else "–",
            interval(profiles["a"]) if profiles else "–",
            str(len(found["rows"])),
        )
    title = "The laws: L = E + A/N^alpha + B/D^beta, and N* ~ C^a, with 95% intervals"
    return titled(title, table)


def _parameter(fit: dict[str, Any] | None, name: str) -> str:
    if fit is None:
        return "–"
    low, high = fit["intervals"][name]
    return interval({"value": fit["parameters"][name], "low": low, "high": high})


def _allocations(analysis: dict[str, Any], largest: float) -> Group:
    table = new_table(["", "FLOPs", "N*", "D*", "D*/N*", "loss", "N*, profiles"])
    names = ("params", "tokens", "tokens_per_param", "loss")
    for architecture, found in analysis["architectures"].items():
        by_fit, by_profiles = (found["allocations"][f"approach{n}"] for n in (3, 2))
        for position, flops in enumerate(analysis["targets"]):
            if flops < largest:
                continue
            best = by_fit[position] if by_fit else {}
            other = by_profiles[position] if by_profiles else {}
            cells = [interval(best.get(name)) for name in names]
            table.add_row(architecture, f"{flops:.3g}", *cells, interval(other.get("params")))
    return titled("Compute-optimal allocation at the largest budget and beyond", table)


def _gains(analysis: dict[str, Any]) -> Group:
    table = new_table(["", "FLOPs", "factor"])
    for gain in analysis["gains"]:
        table.add_row(gain["architecture"], f"{gain['flops']:.3g}", interval(gain))
    title = f"Compute-equivalent gain over {analysis['baseline']} (2: its loss at half the compute)"
    return titled(title, table)


def _warnings(analysis: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for warning in analysis["warnings"]:
        yield "table", warning["message"]
    for name, found in analysis["architectures"].items():
        for warning in found["warnings"]:
            yield name, warning["message"]


def interval(estimate: Mapping[str, Any] | None) -> str:
    """``0.52 [0.47, 0.58]``, an end that is unbounded as ∞."""
    if not estimate or not present(estimate["value"]):
        return "–"
    low = quantity(estimate["low"]) if present(estimate["low"]) else "-∞"
    high = quantity(estimate["high"]) if present(estimate["high"]) else "∞"
    return f"{quantity(estimate['value'])} \\[{low},\N{NO-BREAK SPACE}{high}]"


def quantity(value: float) -> str:
    """Three digits, with k, m, b, t from a thousand up to where they stop helping."""
    return short(value) if 1000 <= abs(value) < 1e15 else f"{value:.3g}"


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
