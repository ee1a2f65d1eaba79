"""`isoflop fit runs.csv --law …` as a function: a CSV in, JSON values out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.bootstrap import Kind
from analysis.estimate import finite
from analysis.laws.registry import get
from analysis.parametric import fit
from analysis.result import Fit, interval
from analysis.table import Table


def fit_csv(
    path: Path | str,
    law: str = "chinchilla",
    columns: Mapping[str, str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    kind: Kind | None = None,
) -> dict[str, Any]:
    """Fit a law to a CSV file: `{law, parameters, intervals, derived, warnings, excluded, …}`.

    `columns` maps standard names to the file's own. An unbounded end of an interval is None.
    Raises `AnalysisError`, one clear sentence, for whatever the user can mend.
    """
    return report(fit_file(path, law, columns, resamples=resamples, seed=seed, kind=kind))


def fit_file(
    path: Path | str,
    law: str = "chinchilla",
    columns: Mapping[str, str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    kind: Kind | None = None,
) -> Fit:
    """The fit itself, for its summary."""
    found = get(law)
    table = Table.read(Path(path), columns, needs=(*found.columns, found.target))
    return fit(table, found, resamples=resamples, seed=seed, kind=kind)


def fit_each(
    path: Path | str,
    law: str = "chinchilla",
    columns: Mapping[str, str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Table, dict[str, Fit]]:
    """The table, and a fit to each of its architectures; without that column to the "model"."""
    found = get(law)
    table = Table.read(Path(path), columns, needs=(*found.columns, found.target))
    names = (
        {str(name) for name in table.labels("architecture")} if table.has("architecture") else ()
    )
    own = {name: table.architecture(name) for name in sorted(names)}
    if len(own) < 2:  # what was left out of the table is then the architecture's own
        own = dict.fromkeys(own or ["model"], table)
    fits = {name: fit(part, found, resamples=resamples, seed=seed) for name, part in own.items()}
    return table, fits


def report(fitted: Fit) -> dict[str, Any]:
    """A fit without its resamples, as the command prints it."""
    return {
        "law": fitted.law.name,
        "parameters": {name: finite(e.value) for name, e in fitted.parameters.items()},
        "intervals": {name: interval(e) for name, e in fitted.parameters.items()},
        "derived": {name: e.to_dict() for name, e in fitted.derived.items()},
        "warnings": [
            {"type": n["type"], "rows": n["rows"], "message": n["message"]}
            for n in (notice.to_dict() for notice in fitted.notices)
        ],
        "excluded": [{"row": e.row, "rule": e.rule} for e in fitted.excluded],
        "objective": fitted.objective,
        "identifiable": fitted.identifiable,
    }
