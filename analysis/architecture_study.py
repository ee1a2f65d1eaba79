"""Everything a study asks of one architecture's runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.estimate import LEVEL, Estimate
from analysis.holdout import Cut, holdout
from analysis.hygiene import hygiene
from analysis.notices import ApproachesDisagree, Notice, RefusedError
from analysis.parametric import fit
from analysis.profile_likelihood import ParameterProfile, profile
from analysis.profiles import Profiles, has_profiles, isoflop_profiles, noise_free_bias
from analysis.result import Allocation, Fit
from analysis.table import Table

CONVENTIONS = ("params_total", "params_active", "params_non_embedding", "params_compute")


@dataclass(frozen=True)
class Asked:
    """What every architecture of a study is asked alike."""

    targets: tuple[float, ...]
    resamples: int = 1000
    seed: int = 0
    level: float = LEVEL
    pair_by: str | None = None
    units: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ArchitectureStudy:
    """One architecture: both approaches side by side, either None where `notices` say why.

    `bias` maps a budget to the relative error in (N*, D*) that Approach 2 would make there
    without any noise. `conventions` gives the exponent a of both approaches under every way of
    counting parameters that the table has. `floor` is the profile of E; `cuts` tell how well the
    law fitted below each budget predicted the runs above it.
    """

    name: str
    table: Table
    approach2: Profiles | None
    approach3: Fit | None
    allocations: Mapping[str, tuple[Allocation, ...]]
    bias: Mapping[float, tuple[float, float]]
    conventions: Mapping[str, Mapping[str, Estimate]]
    floor: ParameterProfile | None
    cuts: tuple[Cut, ...]
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
            "floor": self.floor and self.floor.estimate.to_dict(),
            "holdout": [cut.to_dict() for cut in self.cuts],
            "warnings": [notice.to_dict() for notice in self.notices],
        }


def study_architecture(table: Table, name: str, ask: Asked) -> ArchitectureStudy:
    """Both approaches, and what they tell; what the runs cannot answer becomes a notice."""
    notices: list[Notice] = hygiene(table.frame)
    approach2: Profiles | None = None
    approach3: Fit | None = None
    try:
        approach2 = isoflop_profiles(table, resamples=ask.resamples, seed=ask.seed, level=ask.level)
        notices += [n for n in approach2.notices if n not in notices]
    except RefusedError as refusal:
        if has_profiles(table):  # a ladder has none, and lacks none
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
        conventions=_conventions(table, ask),
        floor=profile(table, "E", level=ask.level) if usable else None,
        cuts=tuple(holdout(table, resamples=ask.resamples, seed=ask.seed)) if usable else (),
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


def _conventions(table: Table, ask: Asked) -> dict[str, dict[str, Estimate]]:
    """Exponent a with every other count of parameters in place of `params`."""
    found: dict[str, dict[str, Estimate]] = {}
    for name in CONVENTIONS:
        if not table.has(name) or bool(table.frame[name].isna().any()):
            continue
        counted = Table(table.frame.assign(params=table.frame[name]))
        exponents = {
            "approach2": _exponent_of_profiles(counted, ask),
            "approach3": _exponent_of_surface(counted, name, ask),
        }
        found[name] = {approach: a for approach, a in exponents.items() if a is not None}
    return found


def _exponent_of_profiles(table: Table, ask: Asked) -> Estimate | None:
    try:
        return isoflop_profiles(
            table, resamples=ask.resamples, seed=ask.seed, level=ask.level, frontier=False
        ).a
    except RefusedError:
        return None


def _exponent_of_surface(table: Table, convention: str, ask: Asked) -> Estimate | None:
    try:
        fitted = fit(
            table,
            resamples=ask.resamples,
            seed=ask.seed,
            level=ask.level,
            convention=convention,
        )
    except RefusedError:
        return None
    return fitted.derived["a"] if fitted.identifiable else None
