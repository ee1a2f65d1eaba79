"""Gated DeltaNet (2412.06464, section 3.4 and figure 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import conv, delta_rule
from models.limits import key_heads, split_heads
from models.linear import Linear
from models.mixers.mamba import init_dt_bias
from models.mixers.short_conv import ShortConv
from models.norm import RMSNorm


class GatedDelta(Branch, name="gated_delta"):
    """q, k, v pass a short convolution and silu, q and k are made unit vectors; the decay is
    Mamba-2's exp(-exp(A) softplus(W x + b)), the rate sigmoid(W x); the output is normalised by
    head and gated by silu(W x). Values are `v_width` wide, or `v_expansion` times as wide as keys;
    with fewer n_key_heads, several heads of values share a query and a key (Qwen3-Next)."""

    derived = ("dt_min", "dt_max", "chunk", "v_expansion")

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int | None = None,
        head_width: int | None = None,
        n_key_heads: int | None = None,
        v_width: int | None = None,
        v_expansion: int = 1,
        n_taps: int = 4,
        chunk: int = 32,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        self.n_heads, self.head_width = split_heads(frame.width, n_heads, head_width)
        self.n_key_heads = key_heads(self.n_heads, n_key_heads)
        self.v_width = v_width or v_expansion * self.head_width
        self.chunk, self.dt_range, self.n_taps = chunk, (dt_min, dt_max), n_taps
        H, G, K, V = self.n_heads, self.n_key_heads, self.head_width, self.v_width
        self.mixed = 2 * G * K + H * V
        self.into = Linear(frame.width, self.mixed + H * V + 2 * H)
        self.conv = ShortConv(self.mixed, n_taps, bias=False)
        self.log_A_H = nn.Parameter(torch.empty(H))
        self.dt_bias = nn.Parameter(torch.empty(H))
        self.norm = RMSNorm(V, frame.norm_eps)
        self.out = Linear(H * V, frame.width, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        B, T = x_BTD.shape[:2]
        H, G, K, V = self.n_heads, self.n_key_heads, self.head_width, self.v_width
        parts = torch.split(self.into(x_BTD), [self.mixed, H * V, H, H], -1)
        mixed = F.silu(self.conv(parts[0], context)).view(B, T, G, -1)
        q, k, v = torch.split(mixed, [K, K, H // G * V], -1)
        dtype = torch.promote_types(x_BTD.dtype, torch.float32)
        q, k = (_unit(part.to(dtype)) for part in (q, k))
        if G < H:
            q, k = (x.repeat_interleave(H // G, 2) for x in (q, k))
        step_BTH = F.softplus(parts[2].to(dtype) + self.dt_bias)
        state = context.state
        y, last = delta_rule.chunked(
            q * K**-0.5,
            k,
            v.to(dtype).reshape(B, T, H, V),
            -self.log_A_H.to(dtype).exp() * step_BTH,
            parts[3].to(dtype).sigmoid(),
            context.starts_BT,
            state.get("memory") if state else None,
            chunk=self.chunk,
        )
        if state is not None:
            state["memory"] = last
        gate = F.silu(parts[1]).view(B, T, H, V)
        return self.out((self.norm(y.to(x_BTD.dtype)) * gate).flatten(2))

    def mixing_flops(self, length: int) -> int:
        """Convolution and recurrence."""
        return conv.flops(length, self.n_taps, self.mixed) + delta_rule.flops(
            length, self.n_heads, self.head_width, self.v_width
        )

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """As Mamba-2: A uniform in [1, 16], steps log-uniform."""
        self.log_A_H.uniform_(1, 16, generator=generator).log_()
        init_dt_bias(self.dt_bias, self.dt_range, generator)
        self.conv.init_special(generator)


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
