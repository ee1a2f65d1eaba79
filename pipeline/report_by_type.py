"""What the type of a study adds to its report: laws of families, trunks, the rule of probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from analysis.estimate import Estimate
from analysis.plots.chart import number, power
from pipeline.probes import told_laws
from pipeline.report_tables import DASH, estimate, html_table

Section = tuple[str, str, str]
"""A title, its HTML, and a sentence on how to read it."""

FAMILY_NOTE = (
    "One law for all variants of an architecture together, with 95 % intervals: how loss depends "
    "on what the study varied, beside size and data."
)
TRUNK_NOTE = (
    "Runs of one size share a trunk at constant rate and decay from its checkpoints. The controls "
    "trained alone, with a cosine schedule: the difference is what the shared trunk costs in loss."
)
RULE_NOTE = "The best learning rate and batch of each probe, and the power laws through them."


def sections(found: Mapping[str, Any]) -> Iterator[Section]:
    """Of what ``pipeline.fits.by_type`` found."""
    if found.get("laws") or found.get("refused"):
        yield "Laws of whole families", _families(found["laws"], found["refused"]), FAMILY_NOTE
    if found.get("trunks"):
        yield "What trunks saved", _trunks(found["trunks"]), TRUNK_NOTE
    if found.get("rule"):
        yield "The best settings", _rule(found["rule"]), RULE_NOTE


def _families(laws: Mapping[str, Any], refused: list[Mapping[str, str]]) -> str:
    parts = [
        _law(family, name, law) for family, fitted in laws.items() for name, law in fitted.items()
    ]
    items = "".join(
        f"<li><b>{escape(one['family'])}</b> {escape(one['law'])}: {escape(one['message'])}</li>"
        for one in refused
    )
    return "".join(parts) + (f"<ul>{items}</ul>" if items else "")


def _law(family: str, name: str, law: Mapping[str, Any]) -> str:
    quality = law["diagnostics"]
    values = [
        estimate(_estimate(value, law["intervals"][key]))
        for key, value in law["parameters"].items()
    ]
    explained = quality["r_squared"]
    measured = [f"{quality['residual_sd']:.2%}", DASH if explained is None else f"{explained:.4f}"]
    row = [escape(f"{family}, {name}"), *values, *measured, str(law["data"]["rows"])]
    head = ["", *map(escape, law["parameters"]), "residual sd", "R²", "runs"]
    equation = (
        f"<p><code>{escape(law['equation'])}</code> <small>{escape(law['source'])}</small></p>"
    )
    return equation + html_table(head, [row])


def _estimate(value: float, interval: list[float | None]) -> Estimate:
    low, high = interval
    infinite = float("inf")
    return Estimate(value, -infinite if low is None else low, infinite if high is None else high)


def _trunks(trunks: Mapping[str, Any]) -> str:
    saved, spent, controls = (trunks[f"{kind}_flops"] for kind in ("saved", "spent", "control"))
    told = (
        f"<p>From scratch these runs would take {power(saved + spent - controls, 3)} FLOPs; with "
        f"trunks they take {power(spent - controls, 3)}, {saved / (saved + spent - controls):.0%} "
        f"less. The controls cost {power(controls, 3)} beside them.</p>"
    )
    head = ["", "parameters", "tokens", "branch", "control, cosine", "difference"]
    rows = [
        [
            escape(pair["architecture"]),
            number(pair["params"], 3),
            number(pair["tokens"], 3),
            f"{pair['loss']:.4f}",
            f"{pair['loss_cosine']:.4f}",
            f"<b>{pair['cost']:+.4f}</b>",
        ]
        for pair in trunks["controls"]
    ]
    return told + html_table(head, rows)


def _rule(rule: Mapping[str, Any]) -> str:
    laws = "".join(
        f"<p>{escape(whose)} <code>{escape(name)} = {law['k']:.3g} · N^{law['p']:.3g} · "
        f"D^{law['q']:.3g}</code></p>"
        for whose, name, law in told_laws(rule)
    )
    edges = (
        f"<p class='doubt'>{rule['edges']} of the best rates are at an end of those probed.</p>"
        if rule["edges"]
        else ""
    )
    head = ["", "parameters", "tokens", "learning rate", "batch, tokens"]
    rows = [
        [
            escape(probe["architecture"]),
            number(probe["params"], 3),
            number(probe["tokens"], 3),
            f"{probe['learning_rate']:.3g}",
            number(probe["batch_tokens"], 3),
        ]
        for probe in rule["probes"]
    ]
    return laws + edges + html_table(head, rows)
