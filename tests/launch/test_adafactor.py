"""Adafactor, against torch's where that keeps to the given rate."""

import math
from typing import Any

import pytest
import torch

from launch.adafactor import Adafactor

SHAPES = [(12, 7), (7,), (30, 30)]


def groups(params: list[torch.nn.Parameter], rate: float) -> list[dict[str, Any]]:
    return [{"params": params, "lr": rate, "weight_decay": 0.1}]


def test_updates_are_torchs_while_it_does_not_cap_the_rate():
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES] for _ in range(2))
    steps, rate = 30, 0.1
    assert rate < 1 / math.sqrt(steps)
    mine, torchs = Adafactor(groups(ours, rate)), torch.optim.Adafactor(groups(theirs, rate))
    for _ in range(steps):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step()
        torchs.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_rate_is_the_schedules_after_any_number_of_steps():
    """torch's would be at 1/√10,000 by then."""
    torch.manual_seed(0)
    param = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = Adafactor([{"params": [param], "lr": 0.5, "weight_decay": 0.0}])
    param.grad = torch.randn_like(param)
    optimizer.step()
    optimizer.state[param]["step"].fill_(10_000)
    before = param.detach().clone()
    optimizer.step()
    moved = (param.detach() - before).square().mean().sqrt() / before.square().mean().sqrt()
    assert moved == pytest.approx(0.5, rel=0.2)


def test_each_matrix_of_a_stack_keeps_moments_of_its_own():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.ones(3, 8, 5))
    stack.grad = torch.randn_like(stack)
    optimizer = Adafactor([{"params": [stack], "lr": 0.1}])
    optimizer.step()
    state = optimizer.state[stack]
    assert (state["row"].shape, state["column"].shape) == ((3, 8, 1), (3, 1, 5))
    assert torch.allclose(state["row"], stack.grad.square().mean(-1, keepdim=True))
