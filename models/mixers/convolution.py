"""Convolutions over time and all channels: ConvS2S (1705.03122) and ByteNet (1610.10099)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.branch import Branch, Frame
from models.channels.activation import Activation, activate, is_gated
from models.context import Context
from models.engines import conv
from models.errors import RecipeError
from models.linear import Linear
from models.norm import LayerNorm


class Convolution(Branch, name="convolution"):
    """act(W [x_{t-(n-1)d}, …, x_t] + b), a gated linear unit in ConvS2S (section 3.2); without
    `causal` the taps are centred on t."""

    def __init__(
        self,
        frame: Frame,
        *,
        n_taps: int = 3,
        dilation: int = 1,
        activation: Activation = "glu",
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.n_taps, self.dilation, self.causal = n_taps, dilation, causal
        self.activation = activation
        _check_taps(n_taps, causal)
        n_out = frame.width * (2 if is_gated(activation) else 1)
        self.out = Linear(n_taps * frame.width, n_out, bias=True, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix near positions."""
        taps = read(x_BTD, self.n_taps, self.dilation, context, causal=self.causal)
        return activate(self.activation, self.out(taps))


class ByteNet(Branch, name="bytenet"):
    """Down to half the channels, a dilated convolution among those, and up again, each after a ReLU
    and all but the first after a norm, the stream's own standing before that (figure 3)."""

    def __init__(
        self, frame: Frame, *, n_taps: int = 3, dilation: int = 1, causal: bool = True
    ) -> None:
        super().__init__()
        self.n_taps, self.dilation, self.causal = n_taps, dilation, causal
        _check_taps(n_taps, causal)
        half = max(frame.width // 2, 1)
        self.down = Linear(frame.width, half, bias=True)
        self.down_norm = LayerNorm(half, frame.norm_eps, bias=True)
        self.along = Linear(n_taps * half, half, bias=True)
        self.along_norm = LayerNorm(half, frame.norm_eps, bias=True)
        self.out = Linear(half, frame.width, bias=True, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions far apart."""
        x_BTI = F.relu(self.down_norm(self.down(F.relu(x_BTD))))
        taps = read(x_BTI, self.n_taps, self.dilation, context, causal=self.causal)
        return self.out(F.relu(self.along_norm(self.along(taps))))


def read(x_BTI: Tensor, n_taps: int, dilation: int, context: Context, *, causal: bool) -> Tensor:
    """`engines.conv.taps`, remembering the last inputs when decoding."""
    state, before, reach = context.state, None, (n_taps - 1) * dilation
    if state is not None:
        before = state.get("taps")
        if before is None:
            before = x_BTI.new_zeros(x_BTI.shape[0], reach, x_BTI.shape[2])
        state["taps"] = torch.cat([before, x_BTI], 1)[:, x_BTI.shape[1] :]
    segments = context.segments_BT if before is None else context.segments_since(reach)
    return conv.taps(
        x_BTI, n_taps, dilation, causal=causal, segments_BT=segments, before_BQI=before
    )


def _check_taps(n_taps: int, causal: bool) -> None:
    if n_taps < 1 or (not causal and n_taps % 2 == 0):
        allowed = "1 or more" if causal else "an odd number, to be centred"
        raise RecipeError(("n_taps",), n_taps, allowed, "wrong value")
