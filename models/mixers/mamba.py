"""Mamba's block (2312.00752, section 3.4 and figure 3)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import conv, selective_scan
from models.linear import Linear
from models.mixers.short_conv import ShortConv
from models.norm import RMSNorm


class Mamba(Branch, name="mamba"):
    """out(scan(x) · silu(z)) with x, z = in(u), x = silu(conv(x)) and Δ, B, C linear in x.

    n_states: S per channel. inner_norm: RMSNorm of Δ, B and C, with weights (Jamba, 2403.19887,
    section 6.4) or plain (Falcon Mamba, 2410.05355, section 2.2); inner_eps: its own, if not the
    stream's. dt_rank: width of the bottleneck of Δ, by default D/16 rounded up.
    """

    derived = ("dt_min", "dt_max")

    def __init__(
        self,
        frame: Frame,
        *,
        n_states: int = 16,
        expansion: float = 2.0,
        n_taps: int = 4,
        dt_rank: int | None = None,
        inner_norm: Literal["none", "weighted", "plain"] = "none",
        inner_eps: float | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        self.inner = int(expansion * frame.width)
        self.n_states = n_states
        self.dt_rank = dt_rank or math.ceil(frame.width / 16)
        self.dt_range = (dt_min, dt_max)
        self.into = Linear(frame.width, 2 * self.inner, bias=bias)
        self.conv = ShortConv(self.inner, n_taps, bias=conv_bias)
        self.select = Linear(self.inner, self.dt_rank + 2 * n_states)
        self.dt = Linear(self.dt_rank, self.inner)
        self.dt_bias = nn.Parameter(torch.empty(self.inner))
        self.log_A_IS = nn.Parameter(torch.empty(self.inner, n_states))
        self.skip_I = nn.Parameter(torch.empty(self.inner))
        self.out = Linear(self.inner, frame.width, bias=bias, role="out")
        self.inner_norm, self.inner_eps = inner_norm, inner_eps or frame.norm_eps
        widths = (self.dt_rank, n_states, n_states) if inner_norm == "weighted" else ()
        self.norms = nn.ModuleList(RMSNorm(width, self.inner_eps) for width in widths)

    def forward(self, u_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        x_BTI, z_BTI = self.into(u_BTD).chunk(2, -1)
        x_BTI = F.silu(self.conv(x_BTI, context))
        y_BTI = self._scanned(x_BTI, context)
        return self.out(torch.addcmul(y_BTI, x_BTI, self.skip_I) * F.silu(z_BTI))

    def _maps(self) -> list[tuple[slice, Linear, Linear]]:
        """What makes Δ, B and C, by the channels it makes them for and of."""
        return [(slice(None), self.select, self.dt)]

    def _scanned(self, x_BTI: Tensor, context: Context) -> Tensor:
        state = context.state
        before = state.get("ssm") if state else None
        found = []
        for rows, select, dt in self._maps():
            held = None if before is None else before[:, rows]
            given = (context.starts_BT, held, state is not None)
            found.append(self._scan(x_BTI[..., rows], rows, select, dt, *given))
        y_BTI, last = found[0]
        if len(found) > 1:
            y_BTI = torch.cat([y for y, _ in found], -1)
            last = torch.cat([state for _, state in found], 1)
        if state is not None:
            state["ssm"] = last
        return y_BTI

    def _scan(
        self,
        x_BTI: Tensor,
        rows: slice,
        select: Linear,
        dt: Linear,
        starts_BT: Tensor | None,
        before: Tensor | None,
        hands_on: bool,
    ) -> tuple[Tensor, Tensor]:
        selected = torch.split(select(x_BTI), [self.dt_rank, self.n_states, self.n_states], -1)
        if self.inner_norm == "weighted":
            selected = tuple(norm(s) for norm, s in zip(self.norms, selected, strict=True))
        elif self.inner_norm == "plain":
            selected = tuple(F.rms_norm(s, s.shape[-1:], eps=self.inner_eps) for s in selected)
        wide = torch.promote_types(x_BTI.dtype, torch.float32)
        return selective_scan.scan(
            x_BTI,
            F.softplus(dt(selected[0]).to(wide) + self.dt_bias[rows]),
            -self.log_A_IS[rows].to(wide).exp(),
            selected[1],
            selected[2],
            starts_BT,
            before,
            hands_on,
        )

    def mixing_flops(self, length: int) -> int:
        """Convolution, scan and the skip connection."""
        return (
            conv.flops(length, self.conv.n_taps, self.inner)
            + selective_scan.flops(length, self.inner, self.n_states)
            + 2 * length * self.inner
        )

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """A = -(1 … S) (S4D-real, 2206.11893); Δ's bias so that Δ is log-uniform in its range."""
        steps = torch.arange(1, self.n_states + 1, device=self.log_A_IS.device)
        self.log_A_IS.copy_(steps.log().expand_as(self.log_A_IS))
        self.skip_I.fill_(1.0)
        for _, _, dt in self._maps():
            dt.weight.uniform_(-(self.dt_rank**-0.5), self.dt_rank**-0.5, generator=generator)
        init_dt_bias(self.dt_bias, self.dt_range, generator)
        self.conv.init_special(generator)


def init_dt_bias(bias: Tensor, span: tuple[float, float], generator: torch.Generator) -> None:
    """Inverse softplus of step sizes drawn log-uniformly from `span`, at least 1e-4."""
    low, high = (math.log(end) for end in span)
    dt = bias.uniform_(low, high, generator=generator).exp().clamp(min=1e-4)
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))
