"""Every law by name."""

from __future__ import annotations

import difflib

from analysis.laws.annealing import ANNEALING, ANNEALING_ACROSS_SIZES
from analysis.laws.base import Law
from analysis.laws.chinchilla import CHINCHILLA
from analysis.laws.data_constrained import DATA_CONSTRAINED, DATA_CONSTRAINED_C4
from analysis.laws.envelope import ENVELOPE
from analysis.laws.granularity import GRANULARITY
from analysis.laws.hyperparameters import BATCH, LEARNING_RATE
from analysis.laws.kaplan import KAPLAN
from analysis.laws.over_training import OVER_TRAINING
from analysis.laws.routed import ROUTED
from analysis.laws.sparsity import SPARSITY
from analysis.notices import AnalysisError

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        CHINCHILLA,
        KAPLAN,
        OVER_TRAINING,
        DATA_CONSTRAINED,
        DATA_CONSTRAINED_C4,
        ROUTED,
        GRANULARITY,
        SPARSITY,
        ENVELOPE,
        ANNEALING,
        ANNEALING_ACROSS_SIZES,
        LEARNING_RATE,
        BATCH,
    )
}


def get(law: str | Law) -> Law:
    """The law of that name; an `AnalysisError` names the nearest where there is none."""
    if isinstance(law, Law):
        return law
    if law in LAWS:
        return LAWS[law]
    near = difflib.get_close_matches(law, LAWS, n=1)
    hint = f" (nearest: {near[0]!r})" if near else ""
    raise AnalysisError(f"no law is called {law!r}{hint}; there are: {', '.join(LAWS)}")
