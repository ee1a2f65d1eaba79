"""Intervals hold the truth as often as they say, whichever way they are made."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import Fit, RefusedError, Table, fit
from analysis.bootstrap import draw, seed_spread
from analysis.holdout import holdout
from analysis.notices import AnalysisError, FewClusters
from analysis.profile_likelihood import profile
from analysis.synthetic import BESIROGLU, isoflop_grid

NINE = np.geomspace(1e18, 1e22, 9)
TRUE_A = BESIROGLU["beta"] / (BESIROGLU["alpha"] + BESIROGLU["beta"])


@pytest.mark.slow
def test_two_hundred_seeds_spread_and_cover_as_promised() -> None:
    fits = [
        fit(isoflop_grid(BESIROGLU, NINE, 11, 6, noise=0.005, seed=seed)) for seed in range(200)
    ]
    found = np.array([fitted.derived["a"].value for fitted in fits])
    assert found.std() <= 0.009
    assert abs(found.mean() - TRUE_A) <= 0.002
    assert 0.90 <= np.mean([TRUE_A in fitted.derived["a"] for fitted in fits]) <= 0.99
    for name, truth in BESIROGLU.items():
        covered = np.mean([truth in fitted.parameters[name] for fitted in fits])
        assert 0.90 <= covered <= 1.0, name


def test_twenty_seeds_cover() -> None:
    tables = [isoflop_grid(BESIROGLU, NINE, 11, 6, noise=0.005, seed=seed) for seed in range(20)]
    inside = [TRUE_A in fit(table, resamples=300).derived["a"] for table in tables]
    assert sum(inside) >= 16


def test_checkpoints_of_a_run_do_not_pass_for_independent_rows(noisy: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    runs = noisy.iloc[::3].reset_index(drop=True)
    shared = np.exp(0.02 * rng.standard_normal(len(runs)))
    points = pd.concat(
        [
            runs.assign(
                run=[f"r{i}" for i in range(len(runs))],
                tokens=runs["tokens"] * share,
                flops=runs["flops"] * share,
                loss=BESIROGLU["E"]
                + BESIROGLU["A"] / runs["params"] ** BESIROGLU["alpha"]
                + BESIROGLU["B"] / (runs["tokens"] * share) ** BESIROGLU["beta"],
            ).assign(loss=lambda frame: frame["loss"] * shared)
            for share in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
        ],
        ignore_index=True,
    )
    by_run, by_row = (fit(points, kind=kind, resamples=300) for kind in (None, "rows"))
    assert by_run.bootstrap == "runs"
    one, other = by_run.derived["a"], by_row.derived["a"]
    assert one.high - one.low > 1.5 * (other.high - other.low)


def test_one_run_bounds_no_interval(noisy: pd.DataFrame) -> None:
    """Every resample of one cluster is the table itself."""
    for column, options in (("run", {}), ("seed", {"pair_by": "seed"})):
        alone = fit(noisy.assign(**{column: "only"}), resamples=100, **options)
        estimates = [*alone.parameters.values(), *alone.derived.values()]
        assert not any(np.isfinite([e.low, e.high]).any() for e in estimates)
        assert not np.isfinite(alone.predict(params=1e9, tokens=2e10).high).any()
        (notice,) = [n for n in alone.notices if isinstance(n, FewClusters)]
        assert repr(column) in notice.message
        assert len(notice.rows) == len(noisy)
        assert Fit.from_json(alone.to_json()).parameters == alone.parameters
    assert holdout(noisy.assign(run="only"), resamples=100) == []


@pytest.mark.parametrize(("runs", "told"), [(3, True), (8, False)])
def test_intervals_of_few_runs_say_so(noisy: pd.DataFrame, runs: int, told: bool) -> None:
    table = noisy.assign(run=np.arange(len(noisy)) % runs)
    found = fit(table, resamples=100)
    assert found.bootstrap == "runs"
    assert any(isinstance(n, FewClusters) for n in found.notices) == told
    assert found.derived["a"].low < found.derived["a"].high


def test_replicate_seeds_tell_the_noise(noisy: pd.DataFrame) -> None:
    copies = [
        isoflop_grid(BESIROGLU, NINE, 11, 6, noise=0.005, seed=seed).assign(seed=seed)
        for seed in (1, 2, 3)
    ]
    table = pd.concat(copies, ignore_index=True)
    spread, freedom = seed_spread(Table.read(table))
    assert freedom == 2 * 99
    assert spread == pytest.approx(0.005, rel=0.15)
    by_seed = fit(table, kind="seeds", resamples=300).derived["a"]
    by_row = fit(table, resamples=300).derived["a"]
    assert TRUE_A in by_seed
    assert 0.5 < (by_seed.high - by_seed.low) / (by_row.high - by_row.low) < 1.5
    with pytest.raises(RefusedError, match="replicates"):
        fit(noisy, kind="seeds")


def test_an_uncertain_spread_is_one_for_all_rows() -> None:
    """Each row of a resample alone has Student's t; together they have one scale."""
    table = isoflop_grid(BESIROGLU, NINE, 4, 6, noise=0.01).iloc[:20]
    twice = table.iloc[:3].assign(loss=lambda frame: frame["loss"] * [1.01, 0.99, 1.02])
    read = Table.read(pd.concat([table, twice], ignore_index=True))
    spread, freedom = seed_spread(read)
    assert freedom == 3
    shifts_RN = draw(read, 4000, 0, kind="seeds").shifts_RN
    scale_R = (shifts_RN**2).mean(axis=1) / spread**2
    expected = np.quantile(freedom / np.random.default_rng(1).chisquare(freedom, 4000), [0.1, 0.9])
    assert np.quantile(scale_R, [0.1, 0.9]) == pytest.approx(expected, rel=0.25)


def test_tables_drawn_over_the_same_units_are_paired() -> None:
    table = isoflop_grid(BESIROGLU, NINE, 4, 6, noise=0.01).assign(seed=np.tile(range(4), 9))
    one, other = Table.read(table), Table.read(table.assign(loss=table["loss"] * 0.9))
    units = ["0", "1", "2", "3"]
    first, second = (draw(t, 50, 7, pair_by="seed", units=units) for t in (one, other))
    assert np.array_equal(first.weights_RN, second.weights_RN)


@pytest.mark.parametrize("name", ["E", "alpha", "beta"])
def test_the_profile_agrees_with_the_bootstrap(noisy: pd.DataFrame, name: str) -> None:
    by_profile = profile(noisy, name)
    by_rows = fit(noisy, resamples=500).parameters[name]
    assert by_profile.estimate.value == pytest.approx(by_rows.value, rel=1e-3)
    assert BESIROGLU[name] in by_profile.estimate
    widths = [e.high - e.low for e in (by_profile.estimate, by_rows)]
    assert 0.33 < widths[0] / widths[1] < 2
    assert by_profile.objective.min() == pytest.approx(fit(noisy, resamples=0).objective, rel=1e-4)


def test_a_coefficient_alone_has_no_profile(noisy: pd.DataFrame) -> None:
    with pytest.raises(AnalysisError, match="'A' is no parameter"):
        profile(noisy, "A")


def test_runs_of_no_budget_are_cut_by_their_compute(noisy: pd.DataFrame) -> None:
    named = noisy.assign(budget=np.repeat(NINE, 11))
    unnamed = named.assign(budget=named["budget"].mask(named.index % 11 == 5))
    some, all_of_them = (holdout(table, resamples=50) for table in (unnamed, named))
    assert [cut.budgets for cut in some] == [cut.budgets for cut in all_of_them]
    for cut in some:
        held = noisy.loc[list(cut.rows), "flops"]
        assert held.min() > cut.flops * (1 - 1e-9)
        assert cut.fitted + len(cut.rows) == len(noisy)


def test_holdout_errors_are_as_large_as_their_intervals_say(noisy: pd.DataFrame) -> None:
    cuts = holdout(noisy, resamples=300)
    assert len(cuts) >= 6
    assert all(cut.mean_error < 0.03 for cut in cuts)
    assert np.mean([cut.covered for cut in cuts]) > 0.85
    assert [cut.extrapolation for cut in cuts] == sorted(
        (cut.extrapolation for cut in cuts), reverse=True
    )
