"""RWKV's token shift (2305.13048, equations 11 to 13): between a position and the one before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.context import Context


class TokenShift(nn.Module):
    """μ x_t + (1 - μ) x_{t-1} per channel, for several μ at once; zero before a document."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.share_ND = nn.Parameter(torch.empty(n, width))

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, ...]:
        """One mixture per μ; remembers the last position when decoding."""
        state, before = context.state, torch.zeros_like(x_BTD[:, :1])
        if state is not None:
            before = state.get("shift", before)
            state["shift"] = x_BTD[:, -1:]
        previous = torch.cat([before, x_BTD[:, :-1]], 1)
        if context.starts_BT is not None:
            previous = previous.masked_fill(context.starts_BT[..., None], 0.0)
        return tuple(torch.lerp(previous, x_BTD, share) for share in self.share_ND)

    @torch.no_grad()
    def set_powers(self, *powers: float, raised: tuple[float, ...] = ()) -> None:
        """μ = (channel / width)^power, plus something: early channels look back, late ones do not
        (the authors' code)."""
        width = self.share_ND.shape[1]
        channel = torch.arange(width, device=self.share_ND.device) / width
        for i, power in enumerate(powers):
            self.share_ND[i] = channel**power + (raised[i] if raised else 0.0)
