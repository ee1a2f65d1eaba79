"""The shapes of the learning-rate schedules."""

import math
from itertools import pairwise

import pytest

from launch.config import ScheduleConfig, decay_start
from launch.schedule import factor

NAMES = ["cosine", "linear", "constant", "inverse_sqrt", "wsd"]


def curve(name: str, steps: int = 100, **settings: float) -> list[float]:
    schedule = ScheduleConfig.model_validate({"name": name, "warmup_steps": 10} | settings)
    return [factor(schedule, step, steps) for step in range(steps)]


@pytest.mark.parametrize("name", NAMES)
def test_warmup_rises_linearly_to_one_and_nothing_rises_after_it(name: str):
    rates = curve(name)
    assert rates[:11] == pytest.approx([(i + 1) / 11 for i in range(11)])
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_decay_heads_for_the_final_fraction(name: str):
    rates = curve(name, steps=10_000, final_fraction=0.25)
    assert rates[-1] == pytest.approx(0.25, abs=0.02)
    assert min(rates[10:]) >= 0.25


def test_cosine_is_halfway_in_the_middle():
    assert curve("cosine", 110, final_fraction=0.0)[60] == pytest.approx(0.5)


def test_wsd_holds_and_then_cools_down_as_one_minus_root():
    rates = curve("wsd", 100, decay_fraction=0.2, final_fraction=0.0)
    assert rates[10:81] == [1.0] * 71
    assert rates[85] == pytest.approx(1 - math.sqrt(5 / 20))


def test_wsd_decay_never_starts_before_warmup_ends():
    schedule = ScheduleConfig(name="wsd", warmup_steps=10, decay_fraction=1.0)
    assert decay_start(schedule, 20) == 10


def test_inverse_sqrt_halves_when_steps_quadruple():
    rates = curve("inverse_sqrt", 200)
    assert rates[4 * 11 - 1] == pytest.approx(rates[10] / 2)
