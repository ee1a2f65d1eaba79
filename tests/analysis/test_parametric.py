"""Approach 3 recovers what was planted, whatever the form the table comes in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import Fit, RefusedError, fit
from analysis.laws.base import ComputeRule
from analysis.notices import DuplicatedRows, NotIdentifiable, TooFewPoints
from analysis.synthetic import BESIROGLU, HOFFMANN, isoflop_grid

SKEWED = {**HOFFMANN, "alpha": 0.465, "beta": 0.155}
BUDGETS = np.geomspace(1e18, 1e22, 7)


def central(fitted: Fit) -> np.ndarray:
    return np.array([estimate.value for estimate in fitted.parameters.values()])


def ends(fitted: Fit) -> np.ndarray:
    return np.array([(e.low, e.high) for e in fitted.parameters.values()])


@pytest.mark.parametrize("planted", [HOFFMANN, SKEWED, BESIROGLU])
@pytest.mark.parametrize("spread", [2, 16])
def test_recovers_a_noise_free_surface(planted: dict[str, float], spread: float) -> None:
    fitted = fit(isoflop_grid(planted, BUDGETS, 9, spread), resamples=0)
    np.testing.assert_allclose(central(fitted), list(planted.values()), rtol=1e-8)


@pytest.mark.parametrize("rule", [ComputeRule(), ComputeRule(9.0, 0.97), ComputeRule(4.1, 1.06)])
def test_allocation_is_the_minimum_on_the_budget_line(rule: ComputeRule) -> None:
    fitted = fit(isoflop_grid(HOFFMANN, BUDGETS, 7, 4, rule=rule), resamples=0)
    assert fitted.rule.kappa == pytest.approx(rule.kappa, rel=1e-9)
    assert fitted.rule.gamma == pytest.approx(rule.gamma, rel=1e-9)
    best = fitted.allocate(1e21)
    params = best.params.value * np.array([0.99, 1.0, 1.01])
    losses = fitted.predict(params=params, tokens=rule.tokens(1e21, params)).loss
    assert losses.argmin() == 1
    assert losses[1] == pytest.approx(best.loss.value, rel=1e-12)
    assert rule.flops(best.params.value, best.tokens.value) == pytest.approx(1e21)


def test_units_rescale_the_answer_and_nothing_else(noisy: pd.DataFrame) -> None:
    plain = fit(noisy, resamples=200)
    scaled = fit(
        noisy.assign(
            params=noisy["params"] / 1e9, tokens=noisy["tokens"] / 1e12, loss=noisy["loss"] * 1.44
        ).drop(columns="flops"),
        resamples=200,
    )
    names = ("E", "alpha", "beta")
    for name, factor in zip(names, (1.44, 1.0, 1.0), strict=True):
        one, other = plain.parameters[name], scaled.parameters[name]
        assert other.value == pytest.approx(one.value * factor, rel=1e-9)
        assert other.low == pytest.approx(one.low * factor, rel=1e-6)
        assert other.high == pytest.approx(one.high * factor, rel=1e-6)
    assert scaled.objective == pytest.approx(plain.objective, rel=1e-9)


def test_order_of_rows_changes_nothing(noisy: pd.DataFrame) -> None:
    shuffled = noisy.sample(frac=1, random_state=3)
    one, other = fit(noisy, resamples=100), fit(shuffled, resamples=100)
    assert central(one).tobytes() == central(other).tobytes()
    assert ends(one).tobytes() == ends(other).tobytes()


def test_rows_given_twice_change_nothing_and_are_reported(noisy: pd.DataFrame) -> None:
    once = fit(noisy, resamples=100)
    twice = fit(pd.concat([noisy, noisy]), resamples=100)
    assert central(once).tobytes() == central(twice).tobytes()
    assert ends(once).tobytes() == ends(twice).tobytes()
    notice = next(n for n in twice.notices if isinstance(n, DuplicatedRows))
    assert len(notice.rows) == len(noisy)
    assert {e.row for e in twice.excluded} == set(notice.rows)


def test_intervals_hold_the_truth_of_a_noisy_table(noisy: pd.DataFrame) -> None:
    fitted = fit(noisy)
    truth = BESIROGLU["beta"] / (BESIROGLU["alpha"] + BESIROGLU["beta"])
    assert truth in fitted.derived["a"]
    assert all(BESIROGLU[name] in estimate for name, estimate in fitted.parameters.items())
    assert fitted.identifiable
    assert not fitted.notices


def test_json_round_trip_keeps_every_answer(noisy: pd.DataFrame) -> None:
    fitted = fit(noisy.iloc[::2], resamples=64)
    back = Fit.from_json(fitted.to_json())
    assert back.to_dict() == fitted.to_dict()
    assert back.allocate(1e23) == fitted.allocate(1e23)
    assert back.summary() == fitted.summary()


@pytest.mark.parametrize("wiggle", [0.0, 0.01])
@pytest.mark.parametrize("law", ["chinchilla", "kaplan"])
def test_a_single_ratio_of_tokens_to_parameters_identifies_no_split(
    law: str, wiggle: float
) -> None:
    params = np.geomspace(1e7, 1e10, 12)
    tokens = 20 * params * np.exp(wiggle * np.random.default_rng(0).standard_normal(12))
    table = pd.DataFrame({"params": params, "tokens": tokens})
    table["loss"] = 1.69 + 406.4 * params**-0.34 + 410.7 * tokens**-0.28
    fitted = fit(table, law, resamples=100)
    assert not fitted.identifiable
    assert not any(np.isfinite([e.low, e.high]).any() for e in fitted.parameters.values())
    assert not any(np.isfinite([e.low, e.high]).any() for e in fitted.derived.values())
    with pytest.raises(RefusedError) as refusal:
        fitted.allocate(1e20)
    assert isinstance(refusal.value.notice, NotIdentifiable)


def test_a_single_size_identifies_no_exponent_of_size(noisy: pd.DataFrame) -> None:
    tokens = np.geomspace(1e9, 1e11, 12)
    table = pd.DataFrame({"params": 1e8, "tokens": tokens, "loss": 2.0 + 400 * tokens**-0.3})
    fitted = fit(table, resamples=100)
    assert not fitted.identifiable
    assert any("alpha" in notice.message for notice in fitted.notices)


def test_what_no_run_shows_is_named() -> None:
    fresh = isoflop_grid(HOFFMANN, BUDGETS, 7, 4, noise=0.003)
    fitted = fit(fresh.assign(unique_tokens=fresh["tokens"]), "data-constrained", resamples=50)
    (notice,) = [n for n in fitted.notices if isinstance(n, NotIdentifiable)]
    assert "R_D" in notice.message
    assert "alpha" not in notice.message


def test_three_points_are_refused_with_their_rows(noisy: pd.DataFrame) -> None:
    with pytest.raises(RefusedError, match="at least 6") as refusal:
        fit(noisy.iloc[:3])
    assert isinstance(refusal.value.notice, TooFewPoints)
    assert refusal.value.notice.rows == (0, 1, 2)


def test_predicting_a_run_is_less_certain_than_the_mean(noisy: pd.DataFrame) -> None:
    fitted = fit(noisy)
    at = {"params": 1e9, "tokens": 2e10}
    mean, run = fitted.predict(**at), fitted.predict(**at, noise=True)
    assert run.high[0] - run.low[0] > 2 * (mean.high[0] - mean.low[0])
    assert mean.loss == run.loss
