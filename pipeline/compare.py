"""Two studies, or tables, against each other: their laws side by side, the compute one saves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType

from analysis.compare import Gain, gain_at_budget
from analysis.notices import AnalysisError
from analysis.result import Fit
from pipeline import show
from pipeline.config import Study
from pipeline.fit_record import digest
from pipeline.law_files import Laws, study_laws
from pipeline.record import Record
from pipeline.runs import judged_on
from pipeline.tables import new_table, titled


@dataclass(frozen=True)
class Comparison:
    """Laws by ``study/architecture``, gains of the first study's over the second's, and remarks."""

    studies: tuple[str, str]
    laws: Mapping[str, Fit]
    gains: tuple[Gain, ...]
    remarks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; the laws without their resamples."""
        laws = {name: fit.to_dict() for name, fit in self.laws.items()}
        for fields in laws.values():
            del fields["bootstrap"]["samples"]
        gains = [gain.to_dict() for gain in self.gains]
        return {
            "studies": list(self.studies),
            "laws": laws,
            "gains": gains,
            "remarks": list(self.remarks),
        }


def compare_studies(first: Study, second: Study) -> Comparison:
    """As `compare`, of what two studies have fitted."""
    return compare(study_laws(first), study_laws(second))


def compare(first: Laws, second: Laws) -> Comparison:
    """Compare every architecture that both have; if there is none, all with all.

    Gains are told at the largest budget of the first, and at its factors beyond that.
    """
    common = [(name, name) for name in first.fits if name in second.fits]
    pairs = common or [(one, other) for one in first.fits for other in second.fits]
    gains: list[Gain] = []
    remarks = list(_remarks(first, second, bool(common)))
    for one, other in pairs:
        names = f"{first.name}/{one}", f"{second.name}/{other}"
        try:
            for factor in (1.0, *first.extrapolate):
                flops = first.largest * factor
                gains.append(gain_at_budget(first.fits[one], second.fits[other], flops, names))
        except AnalysisError as refusal:
            remarks.append(f"{names[0]} over {names[1]}: {refusal}")
    laws = {
        f"{side.name}/{name}": fit for side in (first, second) for name, fit in side.fits.items()
    }
    return Comparison((first.name, second.name), laws, tuple(gains), tuple(remarks))


def comparison_page(found: Comparison) -> RenderableType:
    """The comparison for a terminal."""
    laws = new_table(["law", "E", "alpha", "beta", "N* ~ C^a", "runs"])
    for name, fit in found.laws.items():
        values = [fit.parameters.get(key) for key in ("E", "alpha", "beta")]
        cells = [show.interval(e.to_dict() if e else None) for e in (*values, fit.derived.get("a"))]
        laws.add_row(name, *cells, str(fit.data.rows))
    gains = new_table(["gain of", "over", "FLOPs", "factor"], left=2)
    for gain in found.gains:
        cell = show.interval(gain.gain.to_dict())
        gains.add_row(gain.architecture, gain.baseline, f"{gain.flops:.3g}", cell)
    return Group(
        titled("Laws, with 95% intervals", laws),
        titled("Compute-equivalent gain (above 1: less compute for the same loss)", gains),
        *found.remarks,
    )


def comparison_record(found: Comparison) -> Record:
    """The comparison as a run of the first study's experiment."""
    document = found.to_dict()
    lines = [f"# {found.studies[0]} and {found.studies[1]}", ""]
    lines += ["| gain of | over | FLOPs | factor | 95 % interval |", "|---|---|---|---|---|"]
    for gain in found.gains:
        factor = gain.gain
        cells = [gain.architecture, gain.baseline, f"{gain.flops:.3g}", f"{factor.value:.3g}"]
        lines.append(f"| {' | '.join(cells)} | {factor.low:.3g} to {factor.high:.3g} |")
    lines += ["", *(f"- {remark}" for remark in found.remarks)]
    return Record(
        kind="comparison",
        name=f"compare-{found.studies[0]}-{found.studies[1]}",
        fingerprint=digest(json.dumps(document, sort_keys=True)),
        note="\n".join(lines),
        tags={"compared_with": found.studies[1]},
        metrics=dict(_metrics(found)),
    )


def _metrics(found: Comparison) -> Iterator[tuple[str, float]]:
    for gain in found.gains:
        name = f"{gain.architecture} over {gain.baseline} at {gain.flops:.1e}".replace("e+", "e")
        for end, value in (
            ("", gain.gain.value),
            ("_low", gain.gain.low),
            ("_high", gain.gain.high),
        ):
            if value < float("inf"):
                yield f"gain{end}/{name}", value


def _remarks(first: Laws, second: Laws, common: bool) -> Iterator[str]:
    """What makes the two hard to compare."""
    if first.study and second.study:
        yield from _differences(first.study, second.study)
    else:
        names = " and ".join(side.name for side in (first, second) if not side.study)
        yield (
            f"of {names} only the laws are known: whether text, tokenizer and objective are the "
            "same as the other's, and so whether losses are on one scale, is yours to know"
        )
        conventions = {fit.data.convention for s in (first, second) for fit in s.fits.values()}
        if len(conventions) > 1:
            yield f"they count parameters differently, {', '.join(sorted(conventions))}"
    if not common:
        yield "they have no architecture in common: each is compared with each"


def _differences(first: Study, second: Study) -> Iterator[str]:
    if first.tokenizer != second.tokenizer:
        yield "their tokenizers differ: a loss per token is not the same thing in both"
    if first.corpus != second.corpus:
        yield "their corpora differ: so do their held-out documents, and what is hard about them"
    trained = {judged_on(v.recipe) for s in (first, second) for v in s.variants.values()}
    if len(trained) > 1:
        kinds = ", ".join(sorted(trained))
        yield f"they are trained on different objectives, {kinds}: their losses are not one scale"
    if first.grid.convention != second.grid.convention:
        conventions = f"'{first.grid.convention}' and '{second.grid.convention}'"
        yield f"they count parameters differently, {conventions}: N* and a differ by that"
