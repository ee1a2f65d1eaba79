"""Expected time: the makespan is a bound kept, and a measurement is made once for a plan."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.preflight import Pace, makespan


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=40), st.integers(1, 8))
def test_makespan_is_within_the_bounds_of_list_scheduling(seconds, slots):
    bound = max(sum(seconds) / slots, max(seconds))
    assert bound <= makespan(seconds, slots) * (1 + 1e-9)
    assert makespan(seconds, slots) <= (4 / 3) * bound + max(seconds)


def test_one_slot_takes_the_sum():
    assert makespan([3.0, 1.0, 2.0], 1) == pytest.approx(6.0)


def test_a_pace_interpolates_between_measured_steps(monkeypatch):
    monkeypatch.setattr("pipeline.preflight.run_flops", lambda run: run.flops)
    pace = Pace(flops=[1e6, 3e6], seconds=[0.01, 0.02])
    for step_flops, seconds in ((1e6, 0.01), (2e6, 0.015), (3e6, 0.02), (9e6, 0.02)):
        run = SimpleNamespace(train=SimpleNamespace(steps=10), flops=10 * step_flops)
        assert pace.of(run) == pytest.approx(10 * seconds)
