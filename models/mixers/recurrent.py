"""What came before the Transformer: RNN (Elman 1990), LSTM (Hochreiter and Schmidhuber 1997, with
the forget gate of Gers 2000) and GRU (1406.1078), one step after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from models.branch import Branch, Frame
from models.context import Context
from models.linear import Linear

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
Feed = Callable[[int, Tensor, Tensor], Tensor]


class Recurrent(Branch, name="recurrent"):
    """h_t from h_{t-1} and x_t by the cell's gates; the branch's output is W h_t, if `out`.

    rnn:  h = tanh(u)
    lstm: i, f, g, o = u;  c = σ(f) c + σ(i) tanh(g);  h = σ(o) tanh(c)
    gru:  r, z, n;  h = (1 - z) tanh(W_n x + r U_n h) + z h

    with u = W x + U h + b; `hidden` defaults to the width. truncate: gradients go back at most that
    many steps at a time (truncated back-propagation through time, Williams and Peng 1990).
    """

    def __init__(
        self,
        frame: Frame,
        *,
        cell: Literal["rnn", "lstm", "gru"] = "lstm",
        hidden: int | None = None,
        truncate: int | None = None,
    ) -> None:
        super().__init__()
        self.cell, self.hidden, self.truncate = cell, hidden or frame.width, truncate
        n = GATES[cell] * self.hidden
        self.into = Linear(frame.width, n, bias=True)
        self.again = Linear(self.hidden, n, bias=cell == "gru")
        self.out = Linear(self.hidden, frame.width, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        return self.run(x_BTD, context, lambda t, u, h: u)

    def run(self, x_BTD: Tensor, context: Context, fed: Feed) -> Tensor:
        """Step by step; `fed` makes the cell's input u of step t of what the token gives it, with
        the h before."""
        inputs = self.into(x_BTD)
        state = context.state
        zero = x_BTD.new_zeros(x_BTD.shape[0], self.hidden)
        h, c = (state["h"], state["c"]) if state and "h" in state else (zero, zero)
        rows = []
        for t in range(x_BTD.shape[1]):
            if context.starts_BT is not None:
                start = context.starts_BT[:, t, None]
                h, c = h.masked_fill(start, 0.0), c.masked_fill(start, 0.0)
            at = t + context.offset
            if self.truncate and at and at % self.truncate == 0:
                h, c = h.detach(), c.detach()
            h, c = self._step(fed(t, inputs[:, t], h), h, c)
            rows.append(h)
        if state is not None:
            state.update(h=h, c=c)
        return self.out(torch.stack(rows, 1))

    def _step(self, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        if self.cell == "rnn":
            return torch.tanh(u + self.again(h)), c
        if self.cell == "lstm":
            i, f, g, o = (u + self.again(h)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            return o.sigmoid() * c.tanh(), c
        u_r, u_z, u_n = u.chunk(3, -1)
        h_r, h_z, h_n = self.again(h).chunk(3, -1)
        z = (u_z + h_z).sigmoid()
        return (1 - z) * torch.tanh(u_n + (u_r + h_r).sigmoid() * h_n) + z * h, c
