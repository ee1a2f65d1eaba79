"""Gated attention unit (2202.10447): attention and gated MLP in one branch, one narrow head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import softmax
from models.linear import Linear
from models.mixers.softmax import attend
from models.positions import Rope, scheme, table_for, turn


class Gau(Branch, name="gau"):
    """out(u · A v) with u, v, z = silu(W x), q and k each an affine map of z per channel (section
    3.1). A is softmax(q kᵀ/√K) here, the paper's relu²(q kᵀ/T) being unnormalised for other T."""

    def __init__(
        self, frame: Frame, *, expansion: float = 2.0, head_width: int | None = None
    ) -> None:
        super().__init__()
        self.inner = int(expansion * frame.width)
        self.head_width = head_width or min(128, frame.width)
        self.scale = frame.score_scale(lambda width: head_width or min(128, width))
        positions = scheme(frame.positions)
        self.rope = positions if isinstance(positions, Rope) else None
        self.into = Linear(frame.width, 2 * self.inner + self.head_width)
        self.scale_2K = nn.Parameter(torch.empty(2, self.head_width))
        self.shift_2K = nn.Parameter(torch.empty(2, self.head_width))
        self.out = Linear(self.inner, frame.width, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions and channels."""
        widths = [self.inner, self.inner, self.head_width]
        u, v, z = torch.split(F.silu(self.into(x_BTD)), widths, -1)
        qk = z[:, :, None] * self.scale_2K + self.shift_2K
        if self.rope is not None:
            qk = turn(qk, *table_for(self.rope, qk, self.head_width, context))
        k, v = qk[:, :, 1:], v[:, :, None]
        state = context.state
        if state is not None:
            if state:
                k, v = torch.cat([state["k"], k], 1), torch.cat([state["v"], v], 1)
            state.update(k=k, v=v)
        mixed = attend(qk[:, :, :1], k, v, softmax.Mask(), context, scale=self.scale)
        return self.out(u * mixed[:, :, 0])

    def mixing_flops(self, length: int) -> int:
        """One head with wide values."""
        return softmax.flops(softmax.Mask(), length, length, 1, self.head_width, self.inner)

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """Scales from N(0, 0.02) about 1, shifts 0 (the paper starts at N(0, 0.02) and 0, for
        relu²)."""
        self.scale_2K.normal_(1.0, 0.02, generator=generator)
        self.shift_2K.zero_()
