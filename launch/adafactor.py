"""Adafactor with a learning rate of its own ("Adafactor", arXiv:1804.04235, algorithms 4 to 6)."""

from typing import Any

import torch
from torch import Tensor

DECAY = 0.8
"""β₂ at step t is 1 - t^-0.8 (section 7.2)."""
CLIP = 1.0
"""The most that an update's root mean square may be (section 6)."""
FLOOR = 1e-3
"""A parameter counts as at least so large (ε₂, section 8)."""
TINY = 1e-30


class Adafactor(torch.optim.Optimizer):
    """A step is `lr` times the root mean square of the parameter; decay is AdamW's.

    torch's own holds the rate under 1/√t, whatever the schedule says: no plateau, no trunk. Second
    moments of a matrix, or of each in a stack, are kept as `row` and `column` means. It needs whole
    matrices: no ZeRO sharding.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1e-2, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._move(param, param.grad, group["lr"], group["weight_decay"])

    def _move(self, param: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        state = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0)
            means = {"square": grad}
            if grad.ndim > 1:
                means = {"row": grad[..., :1], "column": grad[..., :1, :]}
            state.update({name: mean.new_zeros(mean.shape) for name, mean in means.items()})
        state["step"] += 1
        fresh = float(state["step"]) ** -DECAY
        update = grad * _second_moment(state, grad.square() + TINY, fresh).rsqrt()
        update /= (_rms(update) / CLIP).clamp(min=1.0)
        stride = rate * _rms(param).clamp(min=FLOOR)
        param.mul_(1 - rate * decay).sub_(update * stride)


def _second_moment(state: dict[str, Tensor], square: Tensor, fresh: float) -> Tensor:
    """The running mean of squared gradients, of a matrix the nearest of rank one."""
    if square.ndim == 1:
        return state["square"].lerp_(square, fresh)
    row = state["row"].lerp_(square.mean(-1, keepdim=True), fresh)
    column = state["column"].lerp_(square.mean(-2, keepdim=True), fresh)
    return row / row.mean(-2, keepdim=True) * column


def _rms(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()
