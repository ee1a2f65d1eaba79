"""The two-layer perceptron and its gated forms."""

from __future__ import annotations

from torch import Tensor

from models.branch import Branch, Frame
from models.channels.activation import Activation, activate, hidden_width, is_gated
from models.context import Context
from models.linear import Linear


class Mlp(Branch, name="mlp"):
    """W_out act(W_in x). The hidden width is `hidden`, or `expansion` times the width, rounded up
    to a `multiple`; by default 4 times, 8/3 if gated (2002.05202)."""

    derived = ("expansion", "multiple")

    def __init__(
        self,
        frame: Frame,
        *,
        activation: Activation = "swiglu",
        hidden: int | None = None,
        expansion: float | None = None,
        multiple: int = 8,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.hidden = hidden or hidden_width(frame.width, activation, expansion, multiple)
        n_in = self.hidden * (2 if is_gated(activation) else 1)
        self.into = Linear(frame.width, n_in, bias=bias)
        self.out = Linear(self.hidden, frame.width, bias=bias, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Transform each position."""
        return self.out(activate(self.activation, self.into(x_BTD)))
