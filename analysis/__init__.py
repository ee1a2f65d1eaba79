"""Scaling laws from a table of runs: fits with intervals, allocations, comparisons and plots.

    from analysis import analyze, fit
    law = fit(pd.read_csv("runs.csv"))      # columns params, tokens, loss; optionally flops, …
    print(law.summary())
    law.allocate(1e21)                      # N*, D*, loss, each with its interval

N is parameters, D training tokens, C training FLOPs, L loss in nats a token. Depends on numpy,
scipy and pandas; on matplotlib and plotly only once a plot is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.notices import AnalysisError, Notice, RefusedError, TableError
    from analysis.parametric import fit
    from analysis.profiles import isoflop_profiles
    from analysis.result import Fit
    from analysis.study import StudyAnalysis, analyze
    from analysis.table import Table

_HOMES = {
    "AnalysisError": "notices",
    "Notice": "notices",
    "RefusedError": "notices",
    "TableError": "notices",
    "fit": "parametric",
    "isoflop_profiles": "profiles",
    "Fit": "result",
    "StudyAnalysis": "study",
    "analyze": "study",
    "Table": "table",
}

__all__ = [
    "AnalysisError",
    "Fit",
    "Notice",
    "RefusedError",
    "StudyAnalysis",
    "Table",
    "TableError",
    "analyze",
    "fit",
    "isoflop_profiles",
]


def __getattr__(name: str) -> object:
    """Import a name's module when it is first asked for: importing the package stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
