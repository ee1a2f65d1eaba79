"""Every law by name."""

from __future__ import annotations

import difflib

from analysis.laws.base import Law
from analysis.laws.chinchilla import CHINCHILLA
from analysis.laws.envelope import ENVELOPE
from analysis.notices import AnalysisError

LAWS: dict[str, Law] = {law.name: law for law in (CHINCHILLA, ENVELOPE)}


def get(law: str | Law) -> Law:
    """The law of that name; an `AnalysisError` names the nearest where there is none."""
    if isinstance(law, Law):
        return law
    if law in LAWS:
        return LAWS[law]
    near = difflib.get_close_matches(law, LAWS, n=1)
    hint = f" (nearest: {near[0]!r})" if near else ""
    raise AnalysisError(f"no law is called {law!r}{hint}; there are: {', '.join(LAWS)}")
