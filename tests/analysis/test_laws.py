"""Every law predicts what its paper does, differentiates right, and is recovered when planted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from analysis import AnalysisError, fit
from analysis.laws import registry
from analysis.laws.annealing import schedule_areas
from analysis.laws.base import ComputeRule, Law
from analysis.laws.chinchilla import CHINCHILLA
from analysis.laws.data_constrained import C4, DATA_CONSTRAINED_C4, constrained_optimum
from analysis.laws.granularity import at_granularity
from analysis.laws.hyperparameters import critical_batch
from analysis.laws.inference import lifetime_optimum
from analysis.laws.routed import effective_experts
from analysis.synthetic import HOFFMANN, as_arrays

PLANTED: dict[str, Mapping[str, float]] = {
    "chinchilla": HOFFMANN,
    "kaplan": {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
    "over-training": {"E": 1.84, "a": 212.0, "b": 367.0, "eta": 0.136},
    "data-constrained": {**C4, "R_D": 15.387756, "R_N": 5.309743},
    "data-constrained-c4": {"R_D": 15.387756, "R_N": 5.309743},
    "routed": {
        "a": -0.082,
        "b": -0.108,
        "c": 0.009,
        "d": 1.104,
        "E_start": 1.847,
        "E_max": 314.478,
    },
    "granularity": {
        "c": 0.47,
        "g": 2.1,
        "gamma": 0.58,
        "a": 18.1,
        "alpha": 0.115,
        "b": 30.8,
        "beta": 0.147,
    },
    "sparsity": {
        "a": 2000.0,
        "alpha": 0.4,
        "b": 900.0,
        "beta": 0.33,
        "c": 0.1,
        "lambda": 0.6,
        "d": 60.0,
        "delta": -0.3,
        "gamma": 0.25,
        "e": 1.2,
    },
    "envelope": {"E": 1.7, "K": 1100.0, "c": 0.155},
    "annealing": {"L0": 2.6, "A": 0.5, "alpha": 0.5, "C": 0.4},
    "annealing-across-sizes": {
        "L0": 1.7,
        "A": 0.5,
        "B": 300.0,
        "alpha": 0.5,
        "beta": 0.34,
        "C": 0.4,
    },
    "learning-rate": {"k": 1.79, "p": -0.713, "q": 0.307},
    "batch": {"k": 0.58, "p": 0.0, "q": 0.571},
}
LAWS = list(registry.LAWS.values())


def design(law: Law) -> pd.DataFrame:
    """A generous design with every column the law could ask for."""
    rng = np.random.default_rng(5)
    size = 400
    frame = pd.DataFrame(
        {
            "params": np.exp(rng.uniform(np.log(1e7), np.log(1e11), size)),
            "tokens": np.exp(rng.uniform(np.log(1e8), np.log(1e12), size)),
            "flops": np.exp(rng.uniform(np.log(1e16), np.log(1e23), size)),
            "experts": 2.0 ** rng.integers(0, 10, size),
            "granularity": 2.0 ** rng.integers(0, 6, size),
            "sparsity": 1 - 2.0 ** -rng.integers(0, 6, size),
            "learning_rate_area": np.exp(rng.uniform(np.log(0.1), np.log(50), size)),
            "annealing_area": rng.uniform(0, 1, size),
        }
    )
    frame["unique_tokens"] = frame["tokens"] / 2.0 ** rng.integers(0, 8, size)
    return frame[list(law.columns)]


def planted_table(law: Law) -> pd.DataFrame:
    frame = design(law)
    columns = {name: frame[name].to_numpy() for name in frame}
    return frame.assign(**{law.target: law.predict(as_arrays(PLANTED[law.name]), columns)})


def names(law: Law) -> str:
    return law.name


@pytest.mark.parametrize("law", LAWS, ids=names)
def test_the_planted_law_is_recovered(law: Law) -> None:
    fitted = fit(planted_table(law), law, resamples=0)
    found = {name: e.value for name, e in fitted.parameters.items()}
    assert fitted.identifiable
    assert found == pytest.approx(dict(PLANTED[law.name]), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("law", LAWS, ids=names)
def test_gradients_are_those_of_differences(law: Law) -> None:
    table = planted_table(law)
    columns = {name: table[name].to_numpy() for name in law.columns}
    problem = law.problem(columns, np.log(table[law.target].to_numpy()))
    theta = problem.coordinates(np.array(list(PLANTED[law.name].values())))
    theta = theta + np.random.default_rng(0).normal(scale=0.01, size=(3, len(theta)))
    _, jacobian = problem.log_predict(theta)
    for p in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[p] = 1e-6
        ends = (problem.log_predict(theta + sign * step)[0] for sign in (1, -1))
        difference = np.subtract(*ends) / 2e-6
        np.testing.assert_allclose(jacobian[:, :, p], difference, atol=2e-7)


@pytest.mark.parametrize("law", LAWS, ids=names)
def test_coordinates_and_parameters_are_inverse_to_each_other(law: Law) -> None:
    table = planted_table(law)
    columns = {name: table[name].to_numpy() for name in law.columns}
    problem = law.problem(columns, np.log(table[law.target].to_numpy()))
    values = np.array([PLANTED[law.name][name] for name in law.names])
    theta = problem.coordinates(values)
    np.testing.assert_allclose(problem.natural(theta[None])[0], values, rtol=1e-9)
    predicted, _ = problem.log_predict(theta[None])
    np.testing.assert_allclose(predicted[0], np.log(table[law.target]), atol=1e-9)


@pytest.mark.parametrize(
    ("name", "columns", "loss"),
    [
        ("kaplan", {"params": 1.5e9, "tokens": 2.2e10}, 2.312548),
        ("data-constrained-c4", {"params": 1e9, "tokens": 4e10, "unique_tokens": 1e10}, 2.501663),
        ("routed", {"params": 1.3e9, "experts": 64.0}, 2.049779),
        ("granularity", {"params": 1e9, "tokens": 2e10, "granularity": 8.0}, 3.140393),
    ],
)
def test_published_predictions(name: str, columns: dict[str, float], loss: float) -> None:
    law = registry.get(name)
    given = {key: np.asarray(value) for key, value in columns.items()}
    assert law.predict(as_arrays(PLANTED[name]), given) == pytest.approx(loss, abs=5e-7)


def test_published_constants() -> None:
    assert critical_batch(3.0) == pytest.approx(1.06911e6, rel=5e-6)
    one = effective_experts(np.array(1.0), np.array(1.847), np.array(314.478))
    assert one == pytest.approx(1.847, rel=1e-12)


def test_over_training_is_chinchilla_with_equal_exponents() -> None:
    law, planted = registry.get("over-training"), as_arrays(PLANTED["over-training"])
    eta = planted["eta"]
    same = {
        "E": planted["E"],
        "A": planted["a"] * 6**-eta,
        "B": planted["b"] * 6**-eta,
        "alpha": 2 * eta,
        "beta": 2 * eta,
    }
    at = {"params": np.geomspace(1e7, 1e10, 5), "tokens": np.geomspace(1e11, 1e9, 5)}
    np.testing.assert_allclose(law.predict(planted, at), CHINCHILLA.predict(same, at), rtol=1e-12)
    rule = ComputeRule()
    flops = np.array([1e20])
    one, other = law.optimum(planted, flops, rule), CHINCHILLA.optimum(same, flops, rule)
    assert one == pytest.approx(other, rel=1e-12)
    ratio = law.derived(planted, rule)["M_opt"]
    assert rule.tokens(flops, one) / one == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("name", ["kaplan", "over-training", "chinchilla"])
@pytest.mark.parametrize("rule", [ComputeRule(), ComputeRule(8.0, 0.96)])
def test_the_optimum_is_the_minimum_of_the_budget_line(name: str, rule: ComputeRule) -> None:
    law, planted = registry.get(name), as_arrays(PLANTED[name])
    best = law.optimum(planted, 1e21, rule)
    params = best * np.array([0.98, 1.0, 1.02])
    losses = law.predict(planted, {"params": params, "tokens": rule.tokens(1e21, params)})
    assert losses.argmin() == 1


def test_without_repetition_the_data_constrained_law_is_chinchilla() -> None:
    law = registry.get("data-constrained-c4")
    at = {"params": np.array([1e9]), "tokens": np.array([2e11])}
    plain = CHINCHILLA.predict(as_arrays(C4), at)
    fresh = law.predict(as_arrays(PLANTED[law.name]), at | {"unique_tokens": at["tokens"]})
    assert fresh == pytest.approx(plain, rel=1e-12)
    repeated = law.predict(as_arrays(PLANTED[law.name]), at | {"unique_tokens": at["tokens"] / 9})
    assert repeated > fresh


def test_the_lifetime_optimum_meets_its_condition_and_its_loss() -> None:
    planted, rule = as_arrays(HOFFMANN), ComputeRule()
    train_only = lifetime_optimum(CHINCHILLA, planted, 2.2, 0.0, rule)
    assert CHINCHILLA.optimum(planted, train_only.training_flops, rule) == pytest.approx(
        train_only.params, rel=1e-6
    )
    used = lifetime_optimum(CHINCHILLA, planted, 2.2, 1e12, rule)
    at = {"params": used.params, "tokens": used.tokens}
    assert CHINCHILLA.predict(planted, at) == pytest.approx(2.2, rel=1e-9)
    left = planted["alpha"] * planted["A"] / used.params ** planted["alpha"]
    right = planted["beta"] * planted["B"] / used.tokens ** planted["beta"]
    assert left / right == pytest.approx(1 + 1e12 / (3 * used.tokens), rel=1e-6)
    assert used.params < train_only.params
    assert used.tokens > train_only.tokens


def test_scarce_tokens_shift_the_optimum_and_plenty_do_not() -> None:
    law, planted, rule = (
        DATA_CONSTRAINED_C4,
        as_arrays(PLANTED["data-constrained-c4"]),
        ComputeRule(),
    )
    free = law.optimum(planted, 1e21, rule)
    assert constrained_optimum(law, planted, 1e21, 1e15, rule) == pytest.approx(free, rel=1e-6)
    scarce = constrained_optimum(law, planted, 1e21, 1e9, rule)
    near = scarce * np.array([0.99, 1.0, 1.01])
    given = {"params": near, "tokens": rule.tokens(1e21, near), "unique_tokens": np.array(1e9)}
    assert law.predict(planted, given).argmin() == 1


def test_at_one_granularity_the_law_is_chinchilla() -> None:
    law, planted = registry.get("granularity"), as_arrays(PLANTED["granularity"])
    at = {"params": np.array([1e8, 1e9]), "tokens": np.array([2e10, 3e9])}
    whole = law.predict(planted, at | {"granularity": np.array(8.0)})
    assert whole == pytest.approx(CHINCHILLA.predict(at_granularity(planted, 8.0), at), rel=1e-12)


def test_a_loss_that_annealing_would_take_whole_has_the_slope_of_its_floor() -> None:
    law = registry.get("annealing")
    columns = {
        "learning_rate_area": np.array([1.0, 10.0, 100.0]),
        "annealing_area": np.array([1.0, 10.0, 100.0]),
    }
    problem = law.problem(columns, np.log([3.0, 2.0, 1.0]))
    theta_P = problem.starts(np.log([3.0, 2.0, 1.0]))[0]
    theta_P[-1] = 1.0
    value, jacobian = problem.log_predict(theta_P[None])
    for p in range(len(theta_P)):
        step = np.zeros(len(theta_P))
        step[p] = 1e-6
        ends = [problem.log_predict((theta_P + sign * step)[None])[0] for sign in (1, -1)]
        np.testing.assert_allclose(jacobian[:, :, p], (ends[0] - ends[1]) / 2e-6, atol=1e-6)
    assert np.isfinite(value).all()


def test_areas_of_a_schedule() -> None:
    rates = np.array([1.0, 1.0, 0.5, 0.5])
    total, fallen = schedule_areas(rates, momentum=0.5)
    np.testing.assert_allclose(total, [1, 2, 2.5, 3])
    np.testing.assert_allclose(fallen, [0, 0, 0.5, 0.75])
    np.testing.assert_allclose(schedule_areas(rates[::-1], momentum=0.5)[1], 0)


def test_an_unknown_law_names_the_nearest() -> None:
    with pytest.raises(AnalysisError, match=r"'chinchila' \(nearest: 'chinchilla'\)"):
        registry.get("chinchila")


def test_a_law_without_an_optimum_says_so() -> None:
    with pytest.raises(AnalysisError, match="routed law has no compute-optimal allocation"):
        registry.get("routed").optimum({}, 1e20, ComputeRule())
