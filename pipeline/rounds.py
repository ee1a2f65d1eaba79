"""Rounds of an adaptive study: which runs would teach the law most, until it answers or costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.design import next_runs
from analysis.estimate import Estimate
from analysis.notices import AnalysisError
from analysis.result import Fit
from launch.journal import DONE
from pipeline.config import Study
from pipeline.grids import AdaptiveGrid, Proposal
from pipeline.plan import Tokens
from pipeline.planner import ladder, possible
from pipeline.runs import row

BUDGETS, SIZES = 8, 9
"""Runs to choose from: so many budgets, and sizes of each."""
NEAR, REPLICATES = 0.15, 2
"""Runs this near to each other in parameters and FLOPs are replicates; more teach little new."""


def propose(
    study: Study,
    tokens: Tokens,
    fits: Mapping[str, Fit],
    table: pd.DataFrame,
    earlier: Sequence[Proposal] = (),
) -> tuple[list[Proposal], list[str]]:
    """The next round's runs, none when all is answered or used; and a line about each law.

    ``table`` holds all runs so far: laws are of the finished ones, and those that are over count.
    """
    grid = study.grid
    assert isinstance(grid, AdaptiveGrid)
    proposals: list[Proposal] = []
    lines: list[str] = []
    number = max((proposal.round for proposal in earlier), default=0) + 1
    over = table[table["status"].isin(DONE)]
    for name, fit in fits.items():
        try:
            answer = _answer(grid, fit)
        except AnalysisError as error:
            lines.append(f"{name}: {error}")
            continue
        factor = answer.high / answer.low if answer.low > 0 else math.inf
        told = f"{name}: {grid.target} at {grid.at:.3g} FLOPs known to a factor {factor:.3g}"
        if factor <= grid.interval:
            lines.append(f"{told}, as asked")
            continue
        own = over[over["architecture"] == name]
        plan = next_runs(
            fit,
            own[own["status"] == "finished"],
            _choices(study, tokens, fit, name, own),
            flops=grid.at,
            target=grid.target,
            budget=_left(grid, over) / len(fits),
        )
        found = [
            Proposal(name, float(run["params"]), float(run["budget"]), number)
            for run in plan.runs.head(grid.round).to_dict("records")
        ]
        proposals += found
        lines.append(f"{told}; {len(found)} more runs" if found else f"{told}; the budget is used")
    return proposals, lines


def _left(grid: AdaptiveGrid, over: pd.DataFrame) -> float:
    """FLOPs that may still be spent: of those given, or that the hours buy at the pace so far.

    A run that diverged counts as a whole one: a study of such runs would never end otherwise.
    """
    given = math.inf if grid.spend is None else grid.spend
    if grid.hours is not None:
        finished = over[over["status"] == "finished"]
        flops, seconds = (finished[name].sum() for name in ("own_flops", "train_seconds"))
        given = min(given, 3600 * grid.hours * flops / seconds if seconds else 0.0)
    return max(float(given - over["own_flops"].sum()), 0.0)


def _answer(grid: AdaptiveGrid, fit: Fit) -> Estimate:
    best = fit.allocate(grid.at)
    found = {"params": best.params, "tokens": best.tokens, "loss": best.loss}[grid.target]
    assert found is not None
    return found


def _choices(study: Study, tokens: Tokens, fit: Fit, name: str, over: pd.DataFrame) -> pd.DataFrame:
    """Runs that can be planned around the law's optimum, less those that were done often enough."""
    grid, variant = study.grid, study.variants[name]
    assert isinstance(grid, AdaptiveGrid)
    shapes = ladder(study, variant, tokens.vocab_size)
    points = []
    for budget in np.geomspace(min(grid.budgets), grid.largest, BUDGETS).tolist():
        best = float(fit.law.optimum(fit.values, budget, fit.rule))
        wanted = best * np.geomspace(1 / grid.spread, grid.spread, SIZES)
        for shape in grid.nearest(shapes, wanted.tolist()):
            if best / grid.spread <= grid.size(shape) <= best * grid.spread:
                points.append(grid.point(shape, budget, grid.seeds[0]))
    runs = pd.DataFrame(list(map(row, possible(study, tokens, variant, points, []))))
    if runs.empty:
        return pd.DataFrame({"params": [], "tokens": [], "flops": [], "budget": []}, dtype=float)
    pairs = zip(runs["params"], runs["flops"], strict=True)
    return runs[[_done(over, *pair) < REPLICATES for pair in pairs]]


def _done(over: pd.DataFrame, params: float, flops: float) -> int:
    near = (over["params"] / params - 1).abs() < NEAR
    return int((near & ((over["flops"] / flops - 1).abs() < NEAR)).sum())
