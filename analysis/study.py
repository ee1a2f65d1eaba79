"""Everything a study asks of its table, in one call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare import Gain, gain_at_budget
from analysis.estimate import LEVEL, Estimate
from analysis.hygiene import hygiene
from analysis.notices import AnalysisError, ApproachesDisagree, Notice, RefusedError
from analysis.parametric import fit
from analysis.profiles import Profiles, isoflop_profiles, noise_free_bias
from analysis.profiles import budgets as profile_groups
from analysis.result import Allocation, Fit
from analysis.table import Exclusion, Table

CONVENTIONS = ("params_total", "params_active", "params_non_embedding", "params_compute")


@dataclass(frozen=True, eq=False)
class ArchitectureStudy:
    """One architecture: both approaches side by side, either None where `notices` say why.

    `bias` maps a budget to the relative error in (N*, D*) that Approach 2 would make there
    without any noise. `conventions` gives the exponent a of both approaches under every way of
    counting parameters that the table has.
    """

    name: str
    table: Table
    approach2: Profiles | None
    approach3: Fit | None
    allocations: Mapping[str, tuple[Allocation, ...]]
    bias: Mapping[float, tuple[float, float]]
    conventions: Mapping[str, Mapping[str, Estimate]]
    notices: tuple[Notice, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; the fit without its resamples."""
        fitted = self.approach3 and self.approach3.to_dict()
        if fitted:
            del fitted["bootstrap"]["samples"]
        return {
            "rows": list(self.table.rows),
            "approach2": self.approach2 and self.approach2.to_dict(),
            "approach3": fitted,
            "allocations": {k: [a.to_dict() for a in v] for k, v in self.allocations.items()},
            "bias": [
                {"flops": flops, "params": params, "tokens": tokens}
                for flops, (params, tokens) in self.bias.items()
            ],
            "conventions": {
                name: {approach: a.to_dict() for approach, a in exponents.items()}
                for name, exponents in self.conventions.items()
            },
            "warnings": [notice.to_dict() for notice in self.notices],
        }


@dataclass(frozen=True, eq=False)
class StudyAnalysis:
    """The laws of every architecture of a study, and the gains over its baseline."""

    table: Table
    architectures: Mapping[str, ArchitectureStudy]
    baseline: str
    budgets: tuple[float, ...]
    targets: tuple[float, ...]
    gains: tuple[Gain, ...]
    notices: tuple[Notice, ...]
    excluded: tuple[Exclusion, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "baseline": self.baseline,
            "budgets": list(self.budgets),
            "targets": list(self.targets),
            "architectures": {name: s.to_dict() for name, s in self.architectures.items()},
            "gains": [gain.to_dict() for gain in self.gains],
            "warnings": [notice.to_dict() for notice in self.notices],
            "excluded": [{"row": e.row, "rule": e.rule} for e in self.excluded],
        }

    def to_json(self) -> str:
        """Strict JSON."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)


def analyze(
    table: Table | pd.DataFrame,
    budgets: Sequence[float] | None = None,
    *,
    extrapolate: Sequence[float] = (10.0, 100.0),
    baseline: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
    pair_by: str | None = None,
) -> StudyAnalysis:
    """Fit Approaches 2 and 3 to every architecture and compare each with the baseline.

    `budgets` default to the table's own (its `budget` column); the optimum is told at each and at
    `extrapolate` times the largest. `pair_by` names a column whose values share seed and data
    across architectures: they are resampled together, so that gains do not carry noise that
    cancels. What an architecture's runs cannot answer becomes a notice;
    only a table that is no table raises (`TableError`), or an unknown baseline (`AnalysisError`).
    """
    checked = Table.read(table)
    if not checked.has("architecture"):
        checked = Table(
            checked.frame.assign(architecture="model"), checked.excluded, checked.notices
        )
    names = list(dict.fromkeys(sorted(checked.frame["architecture"].astype(str))))
    baseline = _baseline(baseline, names)
    names = [baseline, *(name for name in names if name != baseline)]
    asked = tuple(sorted(float(b) for b in budgets)) if budgets else _budgets(checked)
    targets = (*asked, *(asked[-1] * factor for factor in sorted(extrapolate)))
    if pair_by and not checked.has(pair_by):
        raise AnalysisError(f"the table has no column {pair_by!r} to pair the architectures by")
    units = tuple(checked.frame[pair_by].astype(str).unique()) if pair_by else ()
    ask = _Asked(targets, resamples, seed, level, pair_by, units)
    studies = {name: _study(checked.architecture(name), name, ask) for name in names}
    gains, refused = _gains(studies, baseline, targets)
    return StudyAnalysis(
        table=checked,
        architectures=studies,
        baseline=baseline,
        budgets=asked,
        targets=targets,
        gains=gains,
        notices=(*checked.notices, *refused),
        excluded=checked.excluded,
    )


def _baseline(baseline: str | None, names: list[str]) -> str:
    if baseline is None:
        return "dense" if "dense" in names else names[0]
    if baseline not in names:
        listed = ", ".join(names)
        raise AnalysisError(f"the baseline {baseline!r} is not in the table, which has: {listed}")
    return baseline


def _budgets(table: Table) -> tuple[float, ...]:
    if table.has("budget"):
        return tuple(float(b) for b in np.unique(table.column("budget")))
    return tuple(float(np.exp(np.log(table.flops[at]).mean())) for at in profile_groups(table))


@dataclass(frozen=True)
class _Asked:
    """What every architecture is asked alike."""

    targets: tuple[float, ...]
    resamples: int
    seed: int
    level: float
    pair_by: str | None
    units: tuple[str, ...]


def _study(table: Table, name: str, ask: _Asked) -> ArchitectureStudy:
    notices: list[Notice] = hygiene(table.frame)
    approach2: Profiles | None = None
    approach3: Fit | None = None
    try:
        approach2 = isoflop_profiles(table, resamples=ask.resamples, seed=ask.seed, level=ask.level)
        notices += approach2.notices
    except RefusedError as refusal:
        notices.append(refusal.notice)
    try:
        approach3 = fit(
            table,
            resamples=ask.resamples,
            seed=ask.seed,
            level=ask.level,
            pair_by=ask.pair_by,
            units=ask.units,
        )
        notices += [n for n in approach3.notices if n not in notices]
    except RefusedError as refusal:
        notices.append(refusal.notice)
    usable = approach3 if approach3 and approach3.identifiable else None
    if approach2 and usable:
        notices += _disagreement(approach2, usable)
    return ArchitectureStudy(
        name=name,
        table=table,
        approach2=approach2,
        approach3=approach3,
        allocations={
            "approach2": tuple(approach2.allocate(c) for c in ask.targets) if approach2 else (),
            "approach3": tuple(usable.allocate(c) for c in ask.targets) if usable else (),
        },
        bias=_bias(table, usable, ask.targets) if approach2 and usable else {},
        conventions=_conventions(table, ask.resamples, ask.seed, ask.level),
        notices=tuple(notices),
    )


def _bias(
    table: Table, fitted: Fit, targets: tuple[float, ...]
) -> dict[float, tuple[float, float]]:
    try:
        params, tokens = noise_free_bias(table, fitted.law, fitted.values, np.array(targets))
    except RefusedError:
        return {}
    pairs = zip(params.tolist(), tokens.tolist(), strict=True)
    return dict(zip(targets, pairs, strict=True))


def _disagreement(profiles: Profiles, fitted: Fit) -> list[Notice]:
    one, other = profiles.a, fitted.derived["a"]
    if one.low <= other.high and other.low <= one.high:
        return []
    message = (
        f"N* grows as C^{one:.2f} by IsoFLOP profiles but as C^{other:.2f} by the parametric fit"
    )
    return [ApproachesDisagree(message)]


def _conventions(
    table: Table, resamples: int, seed: int, level: float
) -> dict[str, dict[str, Estimate]]:
    """Exponent a with every other count of parameters in place of `params`."""
    found: dict[str, dict[str, Estimate]] = {}
    for name in CONVENTIONS:
        if not table.has(name) or bool(table.frame[name].isna().any()):
            continue
        counted = Table(table.frame.assign(params=table.frame[name]))
        found[name] = {}
        try:
            profiles = isoflop_profiles(
                counted, resamples=resamples, seed=seed, level=level, frontier=False
            )
            found[name]["approach2"] = profiles.a
        except RefusedError:
            pass
        try:
            fitted = fit(counted, resamples=resamples, seed=seed, level=level, convention=name)
            if fitted.identifiable:
                found[name]["approach3"] = fitted.derived["a"]
        except RefusedError:
            pass
    return found


def _gains(
    studies: Mapping[str, ArchitectureStudy], baseline: str, targets: tuple[float, ...]
) -> tuple[tuple[Gain, ...], list[Notice]]:
    base = studies[baseline].approach3
    gains: list[Gain] = []
    refused: list[Notice] = []
    for name, study in studies.items():
        if name == baseline or not base or not study.approach3:
            continue
        try:
            gains += [gain_at_budget(study.approach3, base, c, (name, baseline)) for c in targets]
        except RefusedError as refusal:
            refused.append(refusal.notice)
    return tuple(gains), refused
