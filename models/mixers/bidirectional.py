"""Bidirectional recurrent layers (Schuster and Paliwal 1997)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from models.branch import Branch, Frame
from models.context import Context
from models.mixers.recurrent import Recurrent


class Bidirectional(Branch, name="bidirectional"):
    """W h_t + W' h'_t, with h from the left and h' from the right, by cells of their own; the
    options are `recurrent`'s."""

    def __init__(
        self,
        frame: Frame,
        *,
        cell: Literal["rnn", "lstm", "gru"] = "lstm",
        hidden: int | None = None,
        truncate: int | None = None,
    ) -> None:
        super().__init__()
        self.cell, self.truncate = cell, truncate
        self.hidden = hidden or frame.width
        self.left = Recurrent(frame, cell=cell, hidden=hidden, truncate=truncate)
        self.right = Recurrent(frame, cell=cell, hidden=hidden, truncate=truncate)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        segments = context.segments_BT
        mirrored = Context(None if segments is None else segments.flip(1))
        from_left = self.left.forward(x_BTD, context)
        return from_left + self.right.forward(x_BTD.flip(1), mirrored).flip(1)
