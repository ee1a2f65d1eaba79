"""Differential attention (2410.05258): two softmaxes, the second taken off the first."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import softmax
from models.limits import even_heads
from models.linear import Linear
from models.mixers.softmax import attend
from models.positions import Rope, scheme, table_for, turn


class Differential(Branch, name="differential"):
    """(softmax(q₁k₁ᵀ/√K) - λ softmax(q₂k₂ᵀ/√K)) v, normalised by head and times 1 - λ₀ (equations
    1 to 3); λ = exp(a₁·b₁) - exp(a₂·b₂) + λ₀ with λ₀ = 0.8 - 0.6 exp(-0.3 layer).

    A head has two queries and keys of `head_width` and one value of twice that; n_heads and
    n_kv_heads count them singly, and both must be even.
    """

    derived = ("queries_per_kv",)

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int | None = None,
        head_width: int | None = None,
        n_kv_heads: int | None = None,
        queries_per_kv: int | None = None,
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_width = even_heads(
            frame.width, n_heads, head_width, n_kv_heads, queries_per_kv
        )
        self.scale = frame.score_scale(
            lambda width: even_heads(width, n_heads, head_width, n_kv_heads, queries_per_kv)[2]
        )
        self.start = 0.8 - 0.6 * math.exp(-0.3 * frame.layer)
        self.eps = frame.norm_eps
        positions = scheme(frame.positions)
        self.rope = positions if isinstance(positions, Rope) else None
        inner = self.n_heads * self.head_width
        self.qkv = Linear(frame.width, inner + 2 * self.n_kv_heads * self.head_width)
        self.lambdas_4K = nn.Parameter(torch.empty(4, self.head_width))
        self.out = Linear(inner, frame.width, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        H, G, K = self.n_heads, self.n_kv_heads, self.head_width
        qkv = self.qkv(x_BTD).view(*x_BTD.shape[:2], H + 2 * G, K)
        qk, v = qkv.tensor_split([H + G], 2)
        if self.rope is not None:
            qk = turn(qk, *table_for(self.rope, qk, K, context))
        q, k = qk.tensor_split([H], 2)
        state = context.state
        if state is not None:
            if state:
                k, v = torch.cat([state["k"], k], 1), torch.cat([state["v"], v], 1)
            state.update(k=k, v=v)
        a1, b1, a2, b2 = self.lambdas_4K
        weight = (a1 @ b1).exp() - (a2 @ b2).exp() + self.start
        y = self._attend(q, k, v, 0, context) - weight * self._attend(q, k, v, 1, context)
        return self.out((F.rms_norm(y, (2 * K,), eps=self.eps) * (1 - self.start)).flatten(2))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, half: int, context: Context) -> Tensor:
        parts = [
            attend(
                q[:, :, half::2],
                k[:, :, half::2],
                v[:, :, i::2],  # halves as wide as keys, so that kernels stay fused
                softmax.Mask(),
                context,
                scale=self.scale,
            )
            for i in range(2)
        ]
        return torch.cat(parts, -1)

    def mixing_flops(self, length: int) -> int:
        """Two softmaxes per head over values of twice the width."""
        K = self.head_width
        return softmax.flops(softmax.Mask(), length, length, self.n_heads, K, 2 * K)

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """Vectors of λ from N(0, 0.1)."""
        self.lambdas_4K.normal_(0.0, 0.1, generator=generator)
