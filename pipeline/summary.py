"""What a study found, on a terminal: its laws, what they recommend, and what its type adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape

from pipeline.config import Study
from pipeline.kept import spoken
from pipeline.mlflow_ui import charts
from pipeline.probes import told_laws
from pipeline.show import interval, quantity
from pipeline.tables import new_table, titled


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
    told = (*_warnings(analysis), *refused)
    lines = [f"[yellow]{escape(f'{name}: {text}')}[/]" for name, text in told]
    lines += [
        f"report  {study.folder / 'report.html'}",
        f"plots   {study.folder / 'plots'}",
        f"table   {study.folder / 'table.csv'}",
        f"MLflow  isoflop ui {spoken(study.folder)}",
    ]
    if address := charts(study.folder, study.mlflow):
        lines.append(f"charts  {address}")
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
    saved, spent, controls = (trunks[f"{kind}_flops"] for kind in ("saved", "spent", "control"))
    title = (
        f"Branches from trunks saved {saved:.3g} FLOPs of {saved + spent - controls:.3g}; the "
        f"controls cost {controls:.3g}"
    )
    return titled(title, table, "difference: what the schedule costs in nats per token")


def _rule(rule: dict[str, Any]) -> Group:
    """The best settings that probes found, and the power laws through them."""
    table = new_table(["", "N", "D", "learning rate", "batch"])
    for probe in rule["probes"]:
        cells = [quantity(probe[key]) for key in ("params", "tokens")]
        best = [f"{probe['learning_rate']:.3g}", quantity(probe["batch_tokens"])]
        table.add_row(probe["architecture"], *cells, *best)
    lines: dict[str, list[str]] = {}
    for whose, name, law in told_laws(rule):
        told = f"{name} = {law['k']:.3g} N^{law['p']:.3g} D^{law['q']:.3g}"
        lines.setdefault(whose, []).append(told)
    laws = [f"{whose}: " * bool(whose) + "; ".join(each) for whose, each in lines.items()]
    edge = (
        f"{rule['edges']} of the best rates are at an end of those probed" if rule["edges"] else ""
    )
    return titled("The best settings of the probes", table, *laws, *filter(None, [edge]))


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
