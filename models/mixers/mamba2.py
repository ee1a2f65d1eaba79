"""Mamba-2's block (2405.21060, section 7 and figure 6): the state space dual, SSD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import conv, linear_recurrence
from models.limits import inner_heads
from models.linear import Linear
from models.mixers.mamba import init_dt_bias
from models.mixers.short_conv import ShortConv
from models.norm import RMSNorm


class Mamba2(Branch, name="mamba2"):
    """out(norm(y · silu(z))), y_t = C_tᵀ h_t + D x_t, h_t = exp(Δ_t A) h_{t-1} + B_t (Δ_t x_t)ᵀ.

    A is a scalar per head of `head_width` channels (by default attention's rule for the inner
    width, at most 64), B and C are shared by `n_groups` of heads. dt_floor: the least Δ.
    """

    derived = ("dt_min", "dt_max", "chunk")

    def __init__(
        self,
        frame: Frame,
        *,
        n_states: int = 128,
        head_width: int | None = None,
        n_groups: int = 1,
        expansion: float = 2.0,
        n_taps: int = 4,
        chunk: int = 64,
        bias: bool = False,
        conv_bias: bool = True,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_floor: float = 0.0,
    ) -> None:
        super().__init__()
        self.inner, self.n_heads, self.head_width = inner_heads(
            frame.width, expansion, head_width, n_groups
        )
        self.n_groups, self.n_states = n_groups, n_states
        self.chunk, self.dt_range, self.dt_floor = chunk, (dt_min, dt_max), dt_floor
        self.mixed = self.inner + 2 * n_groups * n_states
        self.into = Linear(frame.width, self.inner + self.mixed + self.n_heads, bias=bias)
        self.conv = ShortConv(self.mixed, n_taps, bias=conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(self.n_heads))
        self.log_A_H = nn.Parameter(torch.empty(self.n_heads))
        self.skip_H = nn.Parameter(torch.empty(self.n_heads))
        self.norm = RMSNorm(self.inner, frame.norm_eps)
        self.out = Linear(self.inner, frame.width, bias=bias, role="out")

    def forward(self, u_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        z_BTI, mixed, dt_BTH = torch.split(
            self.into(u_BTD), [self.inner, self.mixed, self.n_heads], -1
        )
        mixed = F.silu(self.conv(mixed, context))
        x_BTI, B, C = torch.split(mixed, [self.inner, *2 * [self.n_groups * self.n_states]], -1)
        x_BTHV = _heads(x_BTI, self.n_heads)
        delta_BTH = F.softplus(dt_BTH.float() + self.dt_bias).clamp(min=self.dt_floor)
        state = context.state
        y_BTHV, last = linear_recurrence.recur(
            _heads(C, self.n_groups),
            _heads(B, self.n_groups),
            x_BTHV * delta_BTH[..., None].to(x_BTHV.dtype),
            -delta_BTH * self.log_A_H.float().exp(),
            context.starts_BT,
            state.get("ssm") if state else None,
            chunk=self.chunk,
        )
        if state is not None:
            state["ssm"] = last
        y_BTI = torch.addcmul(y_BTHV, x_BTHV, self.skip_H[:, None]).flatten(2)
        return self.out(self._gated_norm(y_BTI * F.silu(z_BTI)))

    def _gated_norm(self, y_BTI: Tensor) -> Tensor:
        """RMSNorm within each group of heads."""
        if self.n_groups == 1:
            normed: Tensor = self.norm(y_BTI)
            return normed
        grouped = _heads(y_BTI, self.n_groups)
        return F.rms_norm(grouped, grouped.shape[-1:], eps=self.norm.eps).flatten(2) * (
            self.norm.weight
        )

    def mixing_flops(self, length: int) -> int:
        """Convolution, recurrence, Δx and the skip connection."""
        return (
            conv.flops(length, self.conv.n_taps, self.mixed)
            + linear_recurrence.flops(length, self.n_heads, self.n_states, self.head_width)
            + 3 * length * self.inner
        )

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """A uniform in -[1, 16], Δ's bias as Mamba's, D = 1 (the authors' code)."""
        self.log_A_H.uniform_(1, 16, generator=generator).log_()
        self.skip_H.fill_(1.0)
        init_dt_bias(self.dt_bias, self.dt_range, generator)
        self.conv.init_special(generator)


def _heads(x_BTI: Tensor, n: int) -> Tensor:
    return x_BTI.reshape(*x_BTI.shape[:2], n, -1)
