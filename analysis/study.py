"""Everything a study asks of its table, in one call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.architecture_study import ArchitectureStudy, Asked, study_architecture
from analysis.compare import Gain, gain_at_budget
from analysis.crossing import Crossing, crossing
from analysis.estimate import LEVEL
from analysis.notices import AnalysisError, Notice, ObjectivesDiffer, RefusedError
from analysis.profiles import budgets as budget_groups
from analysis.table import Exclusion, Table

__all__ = ["ArchitectureStudy", "StudyAnalysis", "analyze"]


@dataclass(frozen=True, eq=False)
class StudyAnalysis:
    """The laws of every architecture of a study, the gains over its baseline, and crossings."""

    table: Table
    architectures: Mapping[str, ArchitectureStudy]
    baseline: str
    budgets: tuple[float, ...]
    targets: tuple[float, ...]
    gains: tuple[Gain, ...]
    crossings: Mapping[tuple[str, str], Crossing]
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
            "crossings": [
                {"architectures": list(pair), **found.to_dict()}
                for pair, found in self.crossings.items()
            ],
            "warnings": [notice.to_dict() for notice in self.notices],
            "excluded": [{"row": e.row, "rule": e.rule} for e in self.excluded],
        }

    def to_json(self) -> str:
        """Strict JSON."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)


def analyze(
    table: Table | pd.DataFrame,
    budgets: Sequence[float] | NDArray[np.float64] | None = None,
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
    cancels. What an architecture's runs cannot answer becomes a notice; only a table that is none
    raises (`TableError`), or an unknown baseline or column to pair by (`AnalysisError`).
    """
    checked = Table.read(table)
    has = checked.has("architecture")
    named = checked.frame.assign(architecture=checked.labels("architecture") if has else "model")
    checked = Table(named, checked.excluded, checked.notices)
    names = sorted(set(named["architecture"]))
    baseline = _baseline(baseline, names)
    names = [baseline, *(name for name in names if name != baseline)]
    given = () if budgets is None else tuple(sorted(float(b) for b in budgets))
    asked = given or _budgets(checked)
    targets = (*asked, *(asked[-1] * factor for factor in sorted(extrapolate)))
    if pair_by and not checked.has(pair_by):
        raise AnalysisError(f"the table has no column {pair_by!r} to pair the architectures by")
    units = tuple(np.unique(checked.labels(pair_by)).tolist()) if pair_by else ()
    ask = Asked(targets, resamples, seed, level, pair_by, units)
    studies = {name: study_architecture(checked.architecture(name), name, ask) for name in names}
    gains, refused = _gains(studies, baseline, targets)
    refused += _incomparable(studies, baseline)
    return StudyAnalysis(
        table=checked,
        architectures=studies,
        baseline=baseline,
        budgets=asked,
        targets=targets,
        gains=gains,
        crossings=_crossings(studies),
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
        return tuple(float(b) for b in np.unique(table.frame["budget"].dropna()))
    return tuple(float(np.exp(np.log(table.flops[at]).mean())) for at in budget_groups(table))


def _gains(
    studies: Mapping[str, ArchitectureStudy], baseline: str, targets: tuple[float, ...]
) -> tuple[tuple[Gain, ...], list[Notice]]:
    base = studies[baseline].approach3
    gains: list[Gain] = []
    refused: list[Notice] = []
    for name, study in studies.items():
        if name == baseline or not base or not study.approach3:
            continue
        if _objective(study) != _objective(studies[baseline]):
            continue
        try:
            gains += [gain_at_budget(study.approach3, base, c, (name, baseline)) for c in targets]
        except RefusedError as refusal:
            refused.append(refusal.notice)
    return tuple(gains), refused


def _incomparable(studies: Mapping[str, ArchitectureStudy], baseline: str) -> list[Notice]:
    """The architectures that no gain is told of, since they learn something else."""
    own = _objective(studies[baseline])
    return [
        ObjectivesDiffer(
            f"no gain of {name} over {baseline} is told: it is trained on the objective "
            f"'{_objective(study)}' and {baseline} on '{own}', whose losses are not on one scale",
            study.table.rows,
        )
        for name, study in studies.items()
        if _objective(study) != own
    ]


def _objective(study: ArchitectureStudy) -> str:
    """What its runs are trained on, by the table's column; causal where it has none."""
    if not study.table.has("objective"):
        return "causal"
    return ", ".join(sorted(set(study.table.labels("objective").tolist())))


def _crossings(
    studies: Mapping[str, ArchitectureStudy],
) -> dict[tuple[str, str], Crossing]:
    """Every pair of architectures of one objective whose laws are identified."""
    laws = {
        name: study.approach3
        for name, study in studies.items()
        if study.approach3 and study.approach3.identifiable
    }
    return {
        (one, other): crossing(laws[one], laws[other], names=(one, other))
        for one, other in combinations(laws, 2)
        if _objective(studies[one]) == _objective(studies[other])
    }
