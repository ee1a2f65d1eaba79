"""Does the law predict what it has not seen? Fit below a budget, predict above, for every cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.laws.base import Law
from analysis.laws.registry import get
from analysis.notices import RefusedError
from analysis.parametric import fit
from analysis.profiles import budgets
from analysis.table import Table


@dataclass(frozen=True)
class Cut:
    """One cut: fitted to the runs of the cheapest `budgets`, up to `flops`, scored on the rest.
    Runs of no budget, where others have one, stand where their compute puts them.

    Errors are predicted over measured loss − 1, `rows` the held-out rows in their order;
    `covered` is the share inside the interval for a new run, `extrapolation` the largest
    held-out compute over `flops`.
    """

    flops: float
    budgets: int
    fitted: int
    rows: tuple[int, ...]
    errors: tuple[float, ...]
    half_widths: tuple[float, ...]
    covered: float
    extrapolation: float

    @property
    def mean_error(self) -> float:
        """Mean of the errors' sizes."""
        return float(np.mean(np.abs(self.errors)))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "flops": self.flops,
            "budgets": self.budgets,
            "fitted": self.fitted,
            "rows": list(self.rows),
            "errors": list(self.errors),
            "half_widths": list(self.half_widths),
            "mean_error": self.mean_error,
            "covered": self.covered,
            "extrapolation": self.extrapolation,
        }


def holdout(
    table: Table | pd.DataFrame,
    law: str | Law = "chinchilla",
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Cut]:
    """Score the law over every cut between budgets that leaves enough runs to fit it."""
    law = get(law)
    table = Table.read(table, needs=(*law.columns, law.target))
    groups = budgets(table)
    unnamed = ~np.isin(np.arange(len(table)), np.concatenate(groups))
    cuts = []
    for last in range(1, len(groups)):
        below = np.isin(np.arange(len(table)), np.concatenate(groups[:last]))
        edge = float(table.flops[below].max())
        below |= unnamed & (table.flops <= edge)
        try:
            fitted = fit(table.where(below), law, resamples=resamples, seed=seed)
        except RefusedError:
            continue
        if not fitted.identifiable or (resamples and not len(fitted.samples_RP)):
            continue
        held = table.where(~below)
        predicted = fitted.predict(noise=True, **held.columns(law.columns))
        measured = held.column(law.target)
        inside = (predicted.low <= measured) & (measured <= predicted.high)
        cuts.append(
            Cut(
                flops=edge,
                budgets=last,
                fitted=int(below.sum()),
                rows=tuple(int(row) for row in held.frame.index),
                errors=tuple((predicted.loss / measured - 1).tolist()),
                half_widths=tuple(((predicted.high - predicted.low) / 2 / measured).tolist()),
                covered=float(inside.mean()),
                extrapolation=float(held.flops.max() / edge),
            )
        )
    return cuts
