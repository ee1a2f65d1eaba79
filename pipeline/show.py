"""What a study says on a terminal: the preflight, the live status, the fits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Group

from pipeline.errors import StoppedError
from pipeline.plan import Plan
from pipeline.runs import row
from pipeline.tables import duration, listed, new_table, short, titled

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.ready import Ready

LISTED = 200
STATUS_STYLE = {
    "finished": "green",
    "running": "cyan",
    "diverged": "red",
    "failed": "red",
    "preempted": "yellow",
    "stopped": "yellow",
}


def preflight(ready: Ready, source: str) -> Group:
    """What the plan will do, before it does it: one line for each architecture and budget."""
    plan, seconds = ready.plan, ready.seconds
    columns = ["", "FLOPs", "runs", "N", "D", "D/N", "epochs", "steps", "est."]
    table = new_table(columns)
    rows = [row(run) | {"seconds": seconds[run.fingerprint()]} for run in plan.runs]
    for (architecture, budget), group in groupby(rows, key=lambda r: (_named_role(r), r["budget"])):
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
        f"{len(plan.runs)} runs, {len(ready.left)} to do on {ready.devices:g} slots, "
        f"about {duration(ready.wall)} of training",
        table,
        f"N: parameters ({plan.runs[0].labels['convention']}); D: tokens, of "
        f"{short(plan.tokens.unique)} unique; FLOPs: of training, exact",
        f"est.: of one slot each, {ready.basis}",
        *_needs(ready),
        f"learning rate, batch, warm-up: {source}",
    )


def _named_role(row: Mapping[str, Any]) -> str:
    role = "" if row["role"] == "run" else f", {row['role']}"
    return f"{row['architecture']}{role}"


def _needs(ready: Ready) -> Iterator[str]:
    """What the plan takes of devices, disk and purse, and what its trunks save."""
    hours = ready.device_hours
    cost = f", {ready.price * hours:,.2f} at {ready.price:g} an hour" if ready.price else ""
    yield (
        f"{hours:.3g} slot-hours{cost}; up to {size(ready.memory)} a rank; "
        f"checkpoints: {size(ready.disk)}"
    )
    if ready.sources:
        told = (f"{source.name} {source.epochs:.2f}" for source in ready.sources)
        yield f"epochs of each source in the longest run: {', '.join(told)}"
    if ready.plan.saved > 0:
        share = ready.plan.saved / (ready.plan.flops + ready.plan.saved)
        yield f"branches from trunks save {ready.plan.saved:.3g} FLOPs ({share:.0%})"


def skipped(plan: Plan) -> Iterable[str]:
    """A line for each point of the grid that is not run, and why."""
    for point in plan.skipped:
        yield (
            f"not planned: {point.architecture} at {point.budget:.3g}, "
            f"{short(point.params)}: {point.detail}"
        )


def cut_short(left: Sequence[Job]) -> Iterator[str]:
    """What the laws lack where the hours that were given did not suffice."""
    if left:
        names = listed([job.run.name for job in left])
        hours = sum(job.expected * job.width for job in left) / 3600
        yield (
            f"--max-gpu-hours: {len(left)} runs were not finished within it, and the laws are "
            f"without them: {names}. They need about {hours:.3g} slot-hours; the same command, "
            "given as many, trains them and fits again"
        )


def stopped(stop: KeyboardInterrupt) -> str:
    """What an interruption left behind: before and after training there is no run to tell of."""
    if not isinstance(stop, StoppedError):
        return "stopped; the same command goes on"
    if not stop.unsaved:
        return "stopped; every run has saved its state, and the same command goes on"
    return (
        f"stopped; {listed(stop.unsaved)} did not save their state in time: the same command goes "
        "on with them from their last checkpoints, and with every other run from where it was"
    )


def status(rows: Sequence[Mapping[str, Any]], *notes: str) -> Group:
    """Every run, in the order of the plan; how many stand where; and what else there is to say."""
    columns = ["run", "status", "step", "of", "loss", "bits/byte", "tokens/s", "MFU", "seconds"]
    table = new_table(columns, left=2)
    for record in _worth_a_line(rows):
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
    counts = Counter(record["status"] for record in rows)
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    if hidden := len(rows) - table.row_count:
        told += f" ({hidden} runs are not listed; --json has all)"
    return Group(table, told, *notes)


def _worth_a_line(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """All of a few; of many those that run or did not end well."""
    if len(rows) <= LISTED:
        return rows
    return [row for row in rows if row["status"] not in ("planned", "finished")][:LISTED]


def driven(name: str, sweep: Mapping[str, Any]) -> str:
    """One line on a study's running sweep (``pipeline.sweep.Sweep.record``)."""
    if sweep["paused"]:
        return f"paused; `isoflop pause {name} --off` goes on"
    parts = [f"{sweep['devices_busy']:g} of {sweep['devices']:g} slots busy"]
    if sweep["expected_end"]:
        left = max(sweep["expected_end"] - time.time(), 0.0)
        at = time.strftime("%H:%M", time.localtime(sweep["expected_end"]))
        parts.append(f"expected to end at {at}, in {duration(left)}")
    return ", ".join([*parts, f"{sweep['device_hours']:.3g} slot-hours used"])


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


def size(count: float) -> str:
    """Bytes, in MB or GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return short(low) if short(low) == short(high) else f"{short(low)}–{short(high)}"
