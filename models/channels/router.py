"""Routers: which experts a token goes to, with what weight, and what keeps them evenly used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from models.linear import Linear

Routing = tuple[Tensor, Tensor, Tensor, Tensor]


class Router(nn.Module):
    """Scores s = softmax(W x) or sigmoid(W x); the top_k of them choose the experts and weigh them.

    With groups only the experts of the `top_groups` best of `n_groups` may be chosen, a group being
    as good as its best expert (softmax: DeepSeek-V2, 2405.04434, section 2.2.2) or as its best two
    together (sigmoid: DeepSeek-V3, 2412.19437, section 2.1.2). A selection bias enters the choice
    and not the weight; `rebalance` moves it (auxiliary-loss-free balancing, 2408.15664).
    `normalize`: the chosen weights are made to sum to 1. `scale` multiplies them.

    Computed in float32 at least (Switch, 2101.03961, section 2.4).
    """

    def __init__(
        self,
        width: int,
        n_experts: int,
        top_k: int,
        *,
        score: Literal["softmax", "sigmoid"] = "softmax",
        normalize: bool = True,
        scale: float = 1.0,
        n_groups: int = 1,
        top_groups: int = 1,
        selection_bias: bool = False,
    ) -> None:
        super().__init__()
        self.gate = Linear(width, n_experts)
        self.top_k, self.score, self.normalize, self.scale = top_k, score, normalize, scale
        self.n_groups, self.top_groups = n_groups, top_groups
        bias_E = torch.zeros(n_experts) if selection_bias else None
        self.bias_E: Tensor | None
        self.register_buffer("bias_E", bias_E)

    if TYPE_CHECKING:

        def __call__(self, x_ND: Tensor) -> Routing: ...

    def forward(self, x_ND: Tensor) -> Routing:
        """Gates (N, K), expert ids (N, K), probabilities (N, E), and the z-loss
        mean (log Σ exp logits)² (ST-MoE, 2202.08906, equation 5)."""
        logits_NE = self.gate(x_ND)
        logits_NE = logits_NE.to(torch.promote_types(logits_NE.dtype, torch.float32))
        z = logits_NE.logsumexp(-1).square().mean()
        if self.score == "softmax":
            score_NE = probability_NE = logits_NE.softmax(-1)
        else:
            score_NE = logits_NE.sigmoid()
            probability_NE = score_NE / score_NE.sum(-1, keepdim=True)
        if self.bias_E is None and self.n_groups == 1:
            gate_NK, expert_NK = score_NE.topk(self.top_k, -1)
        else:
            expert_NK = self._choose(score_NE.detach())
            gate_NK = score_NE.gather(-1, expert_NK)
        if self.normalize:
            gate_NK = gate_NK / gate_NK.sum(-1, keepdim=True)
        return gate_NK * self.scale, expert_NK, probability_NE, z

    def _choose(self, score_NE: Tensor) -> Tensor:
        if self.bias_E is not None:
            score_NE = score_NE + self.bias_E.to(score_NE.dtype)
        if self.n_groups > 1:
            grouped = score_NE.view(len(score_NE), self.n_groups, -1)
            best = grouped.topk(min(2, grouped.shape[-1]), -1).values
            group = best[..., 0] if self.score == "softmax" else best.sum(-1)
            kept = torch.zeros_like(group, dtype=torch.bool)
            kept.scatter_(1, group.topk(self.top_groups, -1).indices, True)
            score_NE = grouped.masked_fill(~kept[..., None], -torch.inf).flatten(1)
        return score_NE.topk(self.top_k, -1).indices

    @torch.no_grad()
    def rebalance(self, load_E: Tensor, rate: float) -> None:
        """Raise the bias of experts with less than an even share of `load_E`, lower the others'."""
        if self.bias_E is not None:
            self.bias_E += rate * torch.sign(1 / len(load_E) - load_E).to(self.bias_E.dtype)


def balance_loss(load_E: Tensor, probability_NE: Tensor) -> Tensor:
    """E Σ_e f_e P_e, f the share of rows and P the mean probability (2101.03961, equation 4): 1
    when both are even. f carries no gradient; with f over all ranks and P over this one's tokens
    the ranks' mean is the loss of the whole batch."""
    return len(load_E) * torch.dot(load_E.to(probability_NE.dtype), probability_NE.mean(0))
