"""Published measurements give the published answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis import Table, fit
from analysis.interpolated import interpolated_profiles
from analysis.laws import registry
from analysis.notices import WeaklyIdentified
from analysis.robust import huber
from analysis.synthetic import as_arrays

Published = Callable[[str], pd.DataFrame]


def test_gadre_small_runs_predict_over_trained_and_large_ones(published: Published) -> None:
    runs = published("gadre_2024.csv").query("ds == 'rpj'")
    runs = runs.rename(columns={"N": "params", "D": "tokens", "loss_c4_val": "loss"})
    ratio = runs["M"].round()
    small = ((ratio == 20) & (runs["params"] < 1e9)) | ((ratio == 320) & (runs["params"] < 2e7))
    assert small.sum() == 5
    # The paper's least squares are of the loss, not of its logarithm.
    table = runs[small].assign(weight=runs["loss"] ** 2)
    law = fit(table, "over-training", delta=np.inf, resamples=0)
    for size, tokens_per_param, percent in ((1.4e9, 640, 0.71), (6.9e9, 20, 0.73)):
        near = (runs["params"] / size - 1).abs() < 0.05
        run = runs[near & (ratio == tokens_per_param)].iloc[0]
        predicted = law.predict(params=run["params"], tokens=run["tokens"]).loss[0]
        assert 100 * abs(predicted / run["loss"] - 1) == pytest.approx(percent, abs=0.01)


def test_muennighoff_repetition_is_not_identified_from_above(published: Published) -> None:
    runs = published("muennighoff_2023.csv")
    frame = pd.DataFrame(
        {
            "params": runs["N"] * 1e9,
            "tokens": runs["D"] * 1e9,
            "unique_tokens": runs["U"] * 1e9,
            "loss": runs["loss"],
        }
    )
    table, law = Table.read(frame), registry.get("data-constrained-c4")
    paper = as_arrays({"R_D": 15.387756, "R_N": 5.309743})
    logs = np.log(law.predict(paper, table.columns(law.columns))) - np.log(table.column("loss"))
    assert huber(logs).sum() == pytest.approx(0.015825937, abs=2e-9)
    fitted = fit(table, law)
    assert fitted.objective <= 0.015826
    repeated = fitted.parameters["R_D"]
    assert repeated.low == pytest.approx(6.6, abs=1.0)
    assert repeated.high == np.inf
    weak = [notice for notice in fitted.notices if isinstance(notice, WeaklyIdentified)]
    assert [notice.message.split()[0] for notice in weak] == ["R_D"]


def test_clark_routed_and_dense_exponents(published: Published) -> None:
    runs = published("clark_2022_final.csv").rename(
        columns={
            "dense_parameter_count": "params",
            "num_experts": "experts",
            "loss_validation": "loss",
        }
    )
    hashed = runs.query("router_type == 'Hash' and k == 1 and routing_frequency == 0.5")
    fitted = fit(hashed, "routed", delta=np.inf, resamples=0)
    found = [fitted.parameters[name].value for name in "abcd"]
    assert found == pytest.approx([-0.087, -0.138, 0.0126, 1.160], abs=0.003)
    dense = runs.query("router_type == 'Dense'")
    slope = np.polyfit(np.log(dense["params"]), np.log(dense["loss"]), 1)[0]
    assert -slope == pytest.approx(0.078, abs=0.003)


@pytest.mark.parametrize(
    ("setting", "exponent"),
    [
        ("rw|base|long|kaplan|kaplan|train", 0.835),
        ("rw|base|long|kaplan|standard|val", 0.707),
        ("rw|base|short|kaplan|standard|val", 0.602),
        ("rw|base|short|chinchilla|standard|val", 0.572),
        ("rw|tuned|short|const|standard|val", 0.497),
    ],
)
def test_porian_exponent_falls_as_each_cause_is_removed(
    published: Published, setting: str, exponent: float
) -> None:
    runs = published("porian_2024_refinedweb.csv").query("setting == @setting")
    table = runs.rename(columns={"n": "params", "t": "tokens"})
    found = interpolated_profiles(table, loss_noise=0.002, resamples=400)
    assert found.a.value == pytest.approx(exponent, abs=0.01)
