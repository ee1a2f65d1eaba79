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


def test_a_pace_is_linear_in_steps_and_flops(monkeypatch):
    monkeypatch.setattr("pipeline.preflight.run_flops", lambda run: 1e9)
    run = SimpleNamespace(train=SimpleNamespace(steps=10))
    assert Pace(overhead=0.002, per_flop=1e-10).seconds(run) == pytest.approx(0.12)
