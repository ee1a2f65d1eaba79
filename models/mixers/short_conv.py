"""The depthwise causal convolution in front of a recurrence, with its cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.context import Context
from models.engines import conv


class ShortConv(nn.Module):
    """`engines.conv` with its weights; remembers the last inputs when decoding."""

    def __init__(self, n_channels: int, n_taps: int, *, bias: bool = True) -> None:
        super().__init__()
        self.n_taps = n_taps
        self.weight_IQ = nn.Parameter(torch.empty(n_channels, n_taps))
        self.bias = nn.Parameter(torch.empty(n_channels)) if bias else None

    def forward(self, x_BTI: Tensor, context: Context, slot: str = "conv") -> Tensor:
        """Convolve along time."""
        state, before = context.state, None
        if state is not None:
            before = state.get(slot)
            if before is None:
                before = x_BTI.new_zeros(x_BTI.shape[0], self.n_taps - 1, x_BTI.shape[2])
            state[slot] = torch.cat([before, x_BTI], 1)[:, x_BTI.shape[1] :]
        segments = (
            context.segments_BT if before is None else context.segments_since(self.n_taps - 1)
        )
        return conv.conv(x_BTI, self.weight_IQ, self.bias, segments, before)

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """Uniform in ± 1/√taps, as torch's Conv1d; the bias starts at zero."""
        bound = self.n_taps**-0.5
        self.weight_IQ.uniform_(-bound, bound, generator=generator)
