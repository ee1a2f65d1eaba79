"""What a study says on a terminal: the preflight, the live status, the fits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table

from pipeline.config import Study
from pipeline.grids.base import short
from pipeline.plan import Plan
from pipeline.runs import row

if TYPE_CHECKING:
    from pipeline.study import Ready

LISTED = 200
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
        "est.: of one slot each, from a short measurement of this machine",
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


def status(rows: Sequence[Mapping[str, Any]], sweep: Mapping[str, Any] | None = None) -> Group:
    """Every run, in the order of the plan; and the sweep that drives them, if one does."""
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
    return Group(table, told, *([driven(sweep)] if sweep else []))


def _worth_a_line(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """All of a few; of many those that run or did not end well."""
    if len(rows) <= LISTED:
        return rows
    return [row for row in rows if row["status"] not in ("planned", "finished")][:LISTED]


def driven(sweep: Mapping[str, Any]) -> str:
    """One line on a running sweep (``pipeline.sweep.Sweep.record``)."""
    if sweep["paused"]:
        return "paused; `isoflop pause --off` goes on"
    parts = [f"{sweep['devices_busy']:g} of {sweep['devices']:g} slots busy"]
    if sweep["expected_end"]:
        left = max(sweep["expected_end"] - time.time(), 0.0)
        at = time.strftime("%H:%M", time.localtime(sweep["expected_end"]))
        parts.append(f"expected to end at {at}, in {duration(left)}")
    return ", ".join([*parts, f"{sweep['device_hours']:.3g} slot-hours used"])


def summary(study: Study, document: Mapping[str, Any]) -> Group:
    """The laws side by side, what they recommend, the gains, and where to look."""
    analysis = document["analysis"]
    largest = analysis["budgets"][-1]
    parts = [_laws(analysis), _allocations(analysis, largest)]
    if analysis["gains"]:
        parts.append(_gains(analysis))
    parts += [_family(name, law) for laws in document["laws"].items() for name, law in _named(laws)]
    if trunks := document["trunks"]:
        parts.append(_trunks(trunks))
    if rule := document["rule"]:
        parts.append(_rule(rule))
    refused = [(one["family"], f"{one['law']}: {one['message']}") for one in document["refused"]]
    lines = [f"[yellow]{name}: {text}[/]" for name, text in (*_warnings(analysis), *refused)]
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


def _named(laws: tuple[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    family, fitted = laws
    return ((f"{family}, {name}", law) for name, law in fitted.items())


def _family(name: str, law: dict[str, Any]) -> Group:
    """A law of all variants of a family together."""
    table = new_table(["", *law["parameters"], "runs"])
    cells = [_parameter(law, key) for key in law["parameters"]]
    table.add_row(name, *cells, str(law["data"]["rows"]))
    return titled(f"{law['equation']} ({law['source']})", table)


def _trunks(trunks: dict[str, Any]) -> Group:
    """What branching saved, and what the schedule costs in loss at each size."""
    table = new_table(["", "N", "D", "wsd", "cosine", "difference"])
    for pair in trunks["controls"]:
        table.add_row(
            pair["architecture"],
            *(quantity(pair[name]) for name in ("params", "tokens")),
            *(f"{pair[name]:.4f}" for name in ("loss", "loss_cosine")),
            f"{pair['cost']:+.4f}",
        )
    saved, spent = trunks["saved_flops"], trunks["spent_flops"]
    title = f"Branches from trunks saved {saved:.3g} FLOPs of {saved + spent:.3g}"
    return titled(title, table, "difference: what the schedule costs in nats per token")


def _rule(rule: dict[str, Any]) -> Group:
    """The best settings that probes found, and the power laws through them."""
    table = new_table(["", "N", "D", "learning rate", "batch"])
    for probe in rule["probes"]:
        cells = [quantity(probe[key]) for key in ("params", "tokens")]
        best = [f"{probe['learning_rate']:.3g}", quantity(probe["batch_tokens"])]
        table.add_row(probe["architecture"], *cells, *best)
    laws = (
        f"{name.replace('_', ' ')} = {law['k']:.3g} N^{law['p']:.3g} D^{law['q']:.3g}"
        for name, law in rule.items()
        if isinstance(law, dict)
    )
    edge = (
        f"{rule['edges']} of the best rates are at an end of those probed" if rule["edges"] else ""
    )
    return titled("The best settings of the probes", table, "; ".join(laws), *filter(None, [edge]))


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


def size(count: float) -> str:
    """Bytes, in MB or GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


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
