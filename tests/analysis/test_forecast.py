"""A forecast is frozen once, scored once, and cannot be edited in between."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis import AnalysisError, Fit, fit
from analysis.forecast import freeze, read_register, score, write_register
from analysis.laws.chinchilla import CHINCHILLA
from analysis.synthetic import BESIROGLU, as_arrays, isoflop_grid


@pytest.fixture(scope="module")
def law() -> Fit:
    return fit(isoflop_grid(BESIROGLU, np.geomspace(1e18, 1e21, 6), 9, 5, noise=0.004))


def test_a_budget_stands_for_its_optimal_run(law: Fit) -> None:
    forecast = freeze(law, made=1.0, flops=1e22)
    best = law.allocate(1e22)
    assert forecast.target == {
        "params": best.params.value,
        "tokens": best.tokens.value,
        "flops": 1e22,
    }
    assert forecast.extrapolation == pytest.approx(10)
    assert forecast.fingerprint == law.data.fingerprint


def test_forecasts_of_new_runs_hold_as_often_as_they_say(law: Fit) -> None:
    rng = np.random.default_rng(0)
    forecast = freeze(law, made=1.0, params=2e9, tokens=4e10)
    at = {"params": np.array(2e9), "tokens": np.array(4e10)}
    truth = float(CHINCHILLA.predict(as_arrays(BESIROGLU), at))
    runs = truth * np.exp(0.004 * rng.standard_normal(400))
    inside = [forecast.low <= loss <= forecast.high for loss in runs]
    assert 0.88 <= np.mean(inside) <= 1.0


def test_a_register_survives_its_file_and_notices_tampering(law: Fit) -> None:
    first = freeze(law, made=1.0, flops=1e22)
    second = score(freeze(law, made=2.0, params=1e9, tokens=2e10), 2.3, scored=3.0)
    text = write_register([first, second])
    assert read_register(text) == [first, second]
    altered = json.loads(text.splitlines()[0]) | {"high": 9.0}
    with pytest.raises(AnalysisError, match="altered after it was frozen"):
        read_register(json.dumps(altered))


def test_a_forecast_is_scored_once(law: Fit) -> None:
    forecast = freeze(law, made=1.0, flops=1e22)
    scored = score(forecast, forecast.loss * 1.001, scored=2.0)
    assert scored.score is not None
    assert scored.score.inside
    assert scored.score.error == pytest.approx(1 / 1.001 - 1)
    with pytest.raises(AnalysisError, match="scored before"):
        score(scored, 2.0, scored=3.0)
    with pytest.raises(AnalysisError, match="positive number, not nan"):
        score(forecast, float("nan"), scored=2.0)


def test_what_is_not_identified_is_not_forecast() -> None:
    params = np.geomspace(1e7, 1e9, 9)
    ray = isoflop_grid(BESIROGLU, np.geomspace(1e18, 1e20, 9), 1, 1).assign(
        params=params, tokens=20 * params, flops=120 * params**2
    )
    with pytest.raises(AnalysisError, match="without bounds"):
        freeze(fit(ray, resamples=50), made=1.0, params=1e10, tokens=1e12)
