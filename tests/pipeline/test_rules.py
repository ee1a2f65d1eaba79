"""Rules reproduce the published values and never leave their stated bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rules import ConstantRule, DeepSeekRule, ProbeRule, StepLawRule, told

RULES = [
    ProbeRule(name="probe", learning_rate=0.02, batch_tokens=1024),
    StepLawRule(name="step_law"),
    DeepSeekRule(name="deepseek"),
    ConstantRule(name="constant", learning_rate=0.01, batch_tokens=512),
]


def test_published_values():
    """The formulas at 1B parameters and 100B tokens (Step Law), at 1e20 FLOPs (DeepSeek)."""
    step_law = RULES[1](params=1e9, tokens=1e11, flops=6e20)
    assert step_law.learning_rate == pytest.approx(
        1.79 * 10 ** (-0.713 * 9 + 0.307 * 11), rel=1e-12
    )
    assert step_law.batch_tokens == pytest.approx(0.58 * 10 ** (0.571 * 11), rel=1e-12)
    deepseek = RULES[2](params=1e9, tokens=1e11, flops=1e20)
    assert deepseek.learning_rate == pytest.approx(0.3118 * 10**-2.5, rel=1e-12)
    assert deepseek.batch_tokens == pytest.approx(0.2920 * 10**6.542, rel=1e-12)


def test_a_small_budget_shrinks_the_batch_before_the_steps():
    rule = RULES[0]
    large, small = rule(1e5, 1024 * 400, 1e12), rule(1e5, 256 * 400, 1e11)
    assert (large.batch_tokens, small.batch_tokens) == (1024, 256)
    assert small.learning_rate == pytest.approx(large.learning_rate / 2)


@given(st.floats(1e3, 1e13), st.floats(1e4, 1e14))
def test_every_rule_stays_in_its_bounds(params, tokens):
    for rule in RULES:
        decided = rule(params=params, tokens=tokens, flops=6 * params * tokens)
        assert 0 < decided.learning_rate <= rule.max_learning_rate
        assert decided.batch_tokens >= rule.min_batch_tokens
        assert 0 <= decided.warmup_fraction < 1


def test_every_rule_names_its_source_and_the_architectures_that_follow_it():
    assert all(rule.told for rule in RULES)
    assert "2503.04715" in RULES[1].told
    assert told({"dense": RULES[1], "moe": RULES[1]}) == RULES[1].told
    assert told({"a": RULES[1], "b": RULES[2], "c": RULES[1]}) == (
        f"a, c: {RULES[1].told}; b: {RULES[2].told}"
    )
