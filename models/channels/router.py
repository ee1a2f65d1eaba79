"""Routers: which experts a token goes to, with what weight, and what keeps them evenly used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.linear import Linear

Routing = tuple[Tensor, Tensor, Tensor, Tensor]


class Router(nn.Module):
    """softmax(W x), the top_k of it; `normalize`: the chosen weights are made to sum to 1.

    Computed in float32 at least (Switch, 2101.03961, section 2.4).
    """

    def __init__(self, width: int, n_experts: int, top_k: int, *, normalize: bool) -> None:
        super().__init__()
        self.gate = Linear(width, n_experts)
        self.top_k, self.normalize = top_k, normalize

    if TYPE_CHECKING:

        def __call__(self, x_ND: Tensor) -> Routing: ...

    def forward(self, x_ND: Tensor) -> Routing:
        """Gates (N, K), expert ids (N, K), probabilities (N, E), and the z-loss
        mean (log Σ exp logits)² (ST-MoE, 2202.08906, equation 5)."""
        logits_NE = self.gate(x_ND)
        logits_NE = logits_NE.to(torch.promote_types(logits_NE.dtype, torch.float32))
        probability_NE = logits_NE.softmax(-1)
        gate_NK, expert_NK = probability_NE.topk(self.top_k, -1)
        if self.normalize:
            gate_NK = gate_NK / gate_NK.sum(-1, keepdim=True)
        return gate_NK, expert_NK, probability_NE, logits_NE.logsumexp(-1).square().mean()


def balance_loss(load_E: Tensor, probability_NE: Tensor) -> Tensor:
    """E Σ_e f_e P_e, f the share of rows and P the mean probability (2101.03961, equation 4): 1
    when both are even. f carries no gradient; with f over all ranks and P over this one's tokens
    the ranks' mean is the loss of the whole batch."""
    return len(load_E) * torch.dot(load_E.to(probability_NE.dtype), probability_NE.mean(0))
