"""RWKV's channel mixing (RWKV-4, 2305.13048, section 3.1; RWKV-7, 2503.14456, section 4.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.branch import Branch, Frame
from models.channels.activation import hidden_width
from models.context import Context
from models.linear import Linear
from models.mixers.token_shift import TokenShift


class RwkvChannel(Branch, name="rwkv_channel"):
    """σ(W_r x_r) · W_v relu²(W_k x_k) of shifted inputs; RWKV-7 leaves the gate out. The hidden
    width is `hidden`, or `expansion` times the width."""

    derived = ("expansion",)

    def __init__(
        self,
        frame: Frame,
        *,
        hidden: int | None = None,
        expansion: float | None = None,
        gate: bool = True,
    ) -> None:
        super().__init__()
        self.hidden = hidden or hidden_width(frame.width, "relu2", expansion, 1)
        self.late = 1 - frame.layer / frame.n_layers
        self.shift = TokenShift(2 if gate else 1, frame.width)
        self.key = Linear(frame.width, self.hidden)
        self.gate = Linear(frame.width, frame.width) if gate else None
        self.out = Linear(self.hidden, frame.width, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Transform each position, with a look at the one before."""
        x_k, *x_r = self.shift(x_BTD, context)
        y_BTD = self.out(self.key(x_k).relu().square())
        return y_BTD if self.gate is None else self.gate(x_r[0]).sigmoid() * y_BTD

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """Shifts by depth, as the authors' code; RWKV-7's μ is 1 - its x_k there."""
        if self.gate is None:
            self.shift.share_ND.fill_(1.0)
            self.shift.set_powers(self.late**4)
        else:
            self.shift.set_powers(self.late, self.late)
