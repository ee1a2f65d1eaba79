"""RWKV-4's time mixing (2305.13048, section 3.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import wkv
from models.linear import Linear
from models.mixers.token_shift import TokenShift


class Rwkv4(Branch, name="rwkv4"):
    """out(σ(r) · wkv), wkv the average of v weighed by e^k, falling by e^{-w} a step and with a
    bonus e^u for the position itself; k, v, r are linear in shifted inputs."""

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        width = frame.width
        self.depth = frame.layer / max(frame.n_layers - 1, 1), frame.layer / frame.n_layers
        self.shift = TokenShift(3, width)
        self.key, self.value, self.receptance = (Linear(width, width) for _ in range(3))
        self.log_decay_I = nn.Parameter(torch.empty(width))
        self.bonus_I = nn.Parameter(torch.empty(width))
        self.out = Linear(width, width, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        x_k, x_v, x_r = self.shift(x_BTD, context)
        k_BTI, v_BTI, r_BTI = self.key(x_k), self.value(x_v), self.receptance(x_r)
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        state = context.state
        before = (state["a"], state["b"], state["m"]) if state and "m" in state else None
        y_BTI, (a, b, m) = wkv.chunked(
            k_BTI.to(wide),
            v_BTI.to(wide),
            self.log_decay_I.to(wide).exp(),
            self.bonus_I.to(wide),
            context.starts_BT,
            before,
        )
        if state is not None:
            state.update(a=a, b=b, m=m)
        return self.out(r_BTI.sigmoid() * y_BTI.to(x_BTD.dtype))

    def mixing_flops(self, length: int) -> int:
        """The average."""
        return wkv.flops(length, len(self.bonus_I))

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """Decays from e^{-5} to e^3 over the channels, bonuses about log 0.3 in a zigzag, shifts by
        depth (the paper, appendix E)."""
        deep, share = self.depth
        n = len(self.bonus_I)
        channel = torch.arange(n, device=self.bonus_I.device)
        ramp = (channel / max(n - 1, 1)) ** (0.7 + 1.3 * deep)
        self.log_decay_I.copy_(-5 + 8 * ramp)
        self.bonus_I.copy_(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1))
        late = 1 - share
        self.shift.set_powers(late, late, 0.5 * late, raised=(0.0, 0.3 * deep, 0.0))
