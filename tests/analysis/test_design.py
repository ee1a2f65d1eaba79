"""Plans lower the variance they promise to, for less than a plain grid."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import AnalysisError, Fit, fit
from analysis.design import candidates, least_cost, next_runs
from analysis.laws.chinchilla import CHINCHILLA
from analysis.saving import saving
from analysis.synthetic import BESIROGLU, isoflop_grid

COLUMNS = ["params", "tokens", "flops"]
BUDGETS = np.geomspace(1e18, 1e21, 6)


@pytest.fixture(scope="module")
def pilot() -> Fit:
    return fit(isoflop_grid(BESIROGLU, BUDGETS[:3], 7, 4, noise=0.004), resamples=200)


def test_a_plan_saves_most_of_a_grid_at_the_same_spread() -> None:
    grid = isoflop_grid(BESIROGLU, BUDGETS, 9, 4)
    known = fit(grid, resamples=0)
    found = saving(
        CHINCHILLA,
        BESIROGLU,
        grid[COLUMNS],
        candidates(1e18, 1e21, 10, 9, 4, known),
        pilot=isoflop_grid(BESIROGLU, BUDGETS[:2], 5, 4)[COLUMNS],
        flops=1e24,
        noise=0.004,
        tables=200,
    )
    assert found.share > 0.5
    assert found.plan_sd < 1.25 * found.grid_sd
    assert found.bound < found.plan_flops


def test_every_run_of_a_plan_lowers_the_variance_and_the_budget_holds(pilot: Fit) -> None:
    table = isoflop_grid(BESIROGLU, BUDGETS[:3], 7, 4, noise=0.004)
    choices = candidates(1e18, 1e20, 6, 7, 4, pilot)
    plan = next_runs(pilot, table, choices, flops=1e23, target="loss", budget=5e20)
    assert plan.cost <= 5e20
    assert list(plan.steps) == sorted(plan.steps, reverse=True)
    assert plan.after < plan.before


def test_the_promised_spread_is_the_one_that_refits_show(pilot: Fit) -> None:
    table = isoflop_grid(BESIROGLU, BUDGETS, 9, 4, noise=0.004)
    fitted = fit(table, resamples=400)
    plan = next_runs(fitted, table, table[COLUMNS], flops=1e23, budget=0.0)
    best = fitted.allocate(1e23).params
    half = (np.log(best.high) - np.log(best.low)) / (2 * 1.96)
    assert plan.before == pytest.approx(half, rel=0.6)
    assert plan.runs.empty


def test_no_plan_is_cheaper_than_the_bound(pilot: Fit) -> None:
    choices = candidates(1e18, 1e21, 8, 7, 4, pilot)
    plan = next_runs(pilot, choices.assign(loss=2.0), choices, flops=1e23, budget=1e22)
    everything = float(choices["flops"].sum()) + plan.cost
    bound, runs = least_cost(pilot, choices, flops=1e23, target="params", sd=plan.after)
    assert bound <= everything
    assert (runs > 1e-9 * runs.max()).sum() <= len(CHINCHILLA.parameters)
    assert (runs * choices["flops"]).sum() == pytest.approx(bound, rel=1e-6)


def test_an_unknown_target_is_refused(pilot: Fit) -> None:
    choices = candidates(1e18, 1e19, 2, 3, 4, pilot)
    with pytest.raises(AnalysisError, match="params, tokens or loss, not 'speed'"):
        next_runs(pilot, choices.assign(loss=2.0), choices, flops=1e23, target="speed")
