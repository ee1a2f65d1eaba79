"""Muon: momentum made orthogonal, for hidden matrices; AdamW for everything else."""

from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose iteration drives singular values to 1 (K. Jordan, "Muon: an optimizer for
hidden layers in neural networks", 2024)."""
ITERATIONS = 5
MATCHED_RMS = 0.2


class Muon(torch.optim.AdamW):
    """Groups with `muon: True` hold matrices or stacks of them; the other groups take AdamW.

    The update is Nesterov momentum made orthogonal and scaled to the root mean square of AdamW's,
    0.2·√max(rows, columns), so that AdamW's learning rate and decay serve both ("Muon is Scalable
    for LLM Training", arXiv:2502.16982, section 2.2). It needs whole matrices: no ZeRO sharding.
    What one matrix multiplication computes is one matrix here: queries, keys and values together.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        momentum: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, betas=betas, eps=eps, fused=True)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        groups = self.param_groups
        for group in groups:
            if group["muon"]:
                for param in group["params"]:
                    self._turn(param, group["lr"], group["weight_decay"])
        self.param_groups = [group for group in groups if not group["muon"]]
        super().step()
        self.param_groups = groups

    def _turn(self, param: Tensor, rate: float, decay: float) -> None:
        grad = param.grad
        if grad is None:
            return
        state = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["momentum"] = torch.zeros_like(param)
        state["step"] += 1
        state["momentum"].lerp_(grad, 1 - self.momentum)
        update = orthogonal(grad.lerp(state["momentum"], self.momentum))
        scale = MATCHED_RMS * max(param.shape[-2:]) ** 0.5
        param.mul_(1 - rate * decay).add_(update, alpha=-rate * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest half-orthogonal matrix, roughly: singular values between 0.7 and 1.2.

    A GPU iterates in bf16, as Jordan does: each iteration corrects what the one before rounded.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    x: Tensor = matrix.mT if tall else matrix
    if matrix.is_cuda:
        x = x.bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(matrix.dtype)
