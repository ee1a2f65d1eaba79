"""RWKV-7's time mixing (2503.14456, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import rank_one
from models.limits import split_heads
from models.linear import Linear
from models.mixers.token_shift import TokenShift

Bend = Callable[[Tensor], Tensor]


class Rwkv7(Branch, name="rwkv7"):
    """out(g · (norm(y) + (r·(ρ k̃)) v)), y_t = S_tᵀ r_t with

        S_t = (diag(w_t) - (a_t κ̂_t) κ̂_tᵀ) S_{t-1} + k̃_t v_tᵀ

    κ̂ the unit vector of ξ k, k̃ = k (1 + (a - 1) α); decay w = exp(-e^{-1/2} σ(·)), rate a = σ(·)
    and gate g come from shifted inputs through bottlenecks. Values blend with the first layer's.
    """

    derived = ("chunk",)

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int | None = None,
        head_width: int | None = None,
        chunk: int = 32,
    ) -> None:
        super().__init__()
        D = frame.width
        self.n_heads, self.head_width = split_heads(D, n_heads, head_width)
        self.chunk = chunk
        self.deep = frame.layer / max(frame.n_layers - 1, 1)
        self.late = 1 - frame.layer / frame.n_layers
        self.shift = TokenShift(6, D)
        self.receptance, self.key, self.value = (Linear(D, D) for _ in range(3))
        self.decay, self.rate = Bottleneck(D, 2.5, torch.tanh), Bottleneck(D, 2.5)
        self.blend = None if frame.layer == 0 else Bottleneck(D, 1.7)
        self.gate = Bottleneck(D, 5.0, torch.sigmoid, offset=False)
        self.vectors_3D = nn.Parameter(torch.empty(3, D))  # ξ, α, ρ
        self.norm_2D = nn.Parameter(torch.empty(2, D))
        self.out = Linear(D, D, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        x_r, x_w, x_k, x_v, x_a, x_g = self.shift(x_BTD, context)
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        r, k, v = self.receptance(x_r).to(wide), self.key(x_k).to(wide), self.value(x_v)
        v_first = context.once("rwkv7 values", lambda: v)
        if self.blend is not None:
            v = torch.lerp(v, v_first, self.blend(x_v).sigmoid())
        a = self.rate(x_a).to(wide).sigmoid()
        log_w = -math.exp(-0.5) * self.decay(x_w).to(wide).sigmoid()
        ksi, alpha, rho = self.vectors_3D.to(wide)
        unit = F.normalize(self._heads(ksi * k), dim=-1, eps=1e-12)
        k, r, v = (self._heads(x) for x in (k * (1 + (a - 1) * alpha), r, v.to(wide)))
        state = context.state
        y, last = rank_one.chunked(
            r,
            k,
            v,
            self._heads(log_w),
            unit,
            -unit * self._heads(a),
            context.starts_BT,
            state.get("memory") if state else None,
            chunk=self.chunk,
        )
        if state is not None:
            state["memory"] = last
        scale, shift = self.norm_2D.to(wide)
        y = F.layer_norm(y, (self.head_width,), eps=64e-5).flatten(2) * scale + shift
        y = y + ((r * k * self._heads(rho)).sum(-1, keepdim=True) * v).flatten(2)
        return self.out(y.to(x_BTD.dtype) * self.gate(x_g))

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.n_heads, self.head_width)

    def mixing_flops(self, length: int) -> int:
        """The recurrence."""
        return rank_one.flops(length, self.n_heads, self.head_width, self.head_width)

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """Decays from slow to fast over the channels, ξ 0.85, α 1, ρ 0, blend 1, shifts by depth
        (the authors' code)."""
        n = self.norm_2D.shape[1]
        ramp = torch.arange(n, device=self.norm_2D.device) / max(n - 1, 1)
        self.decay.set_offset(-6.5 + 5 * ramp ** (0.85 + self.deep**0.5))
        self.rate.set_offset(0.0)
        if self.blend is not None:
            self.blend.set_offset(1.0)
        self.vectors_3D.copy_(torch.tensor([[0.85], [1.0], [0.0]]).expand(3, n))
        self.norm_2D.copy_(torch.tensor([[1.0], [0.0]]).expand(2, n))
        powers = (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)
        self.shift.set_powers(*(power * self.late for power in powers))


class Bottleneck(nn.Module):
    """c + B bend(A x) of a rank of about `factor` √D in steps of 32; A starts at zero."""

    def __init__(
        self, width: int, factor: float, bend: Bend | None = None, *, offset: bool = True
    ) -> None:
        super().__init__()
        rank = max(32, round(factor * width**0.5 / 32) * 32)
        self.down, self.up = Linear(width, rank, role="zero"), Linear(rank, width)
        self.bend = bend
        self.offset = nn.Parameter(torch.empty(width)) if offset else None

    def forward(self, x: Tensor) -> Tensor:
        """Per channel."""
        x = self.down(x)
        y = self.up(x if self.bend is None else self.bend(x))
        return y if self.offset is None else y + self.offset

    def set_offset(self, values: Tensor | float) -> None:
        """Where it starts."""
        assert self.offset is not None
        self.offset.copy_(torch.as_tensor(values).expand_as(self.offset))
