"""A recurrent decoder that attends to its source before each step (Bahdanau, 1409.0473)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from models.branch import Frame
from models.context import Context
from models.engines.softmax import same_segment
from models.linear import Linear
from models.mixers.recurrent import GATES, Recurrent


class Bahdanau(Recurrent, name="bahdanau"):
    """h_t by the cell from h_{t-1}, x_t and c_t = Σ_s α_ts m_s, with α the softmax over the source
    m of v·tanh(W h_{t-1} + U m_s) (section 3.1). Options and cells are `recurrent`'s."""

    def __init__(
        self,
        frame: Frame,
        *,
        cell: Literal["rnn", "lstm", "gru"] = "gru",
        hidden: int | None = None,
        truncate: int | None = None,
    ) -> None:
        super().__init__(frame, cell=cell, hidden=hidden, truncate=truncate)
        self.query = Linear(self.hidden, self.hidden)
        self.source = Linear(frame.width, self.hidden)
        self.align_I = nn.Parameter(torch.empty(self.hidden))
        self.bring = Linear(frame.width, GATES[cell] * self.hidden)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions, and bring in what the source holds."""
        source_BSD, keys_BSI = self._source(context)
        here, there = context.segments_BT, context.source_segments_BS
        apart = here is not None and there is not None
        seen_BTS = same_segment(here, there)[:, 0] if apart else None  # type: ignore[arg-type]

        def fed(t: int, u_BI: Tensor, h_BI: Tensor) -> Tensor:
            scores_BS = torch.tanh(self.query(h_BI)[:, None] + keys_BSI) @ self.align_I
            if seen_BTS is not None:
                scores_BS = scores_BS.masked_fill(~seen_BTS[:, t], -torch.inf)
            mean_BD = (scores_BS.softmax(-1)[:, None] @ source_BSD)[:, 0]
            return u_BI + self.bring(mean_BD)

        return self.run(x_BTD, context, fed)

    def _source(self, context: Context) -> tuple[Tensor, Tensor]:
        state = context.state
        if state:
            return state["source"], state["source_k"]
        source_BSD = context.source_BSD
        assert source_BSD is not None
        keys_BSI = self.source(source_BSD)
        if state is not None:
            state.update(source=source_BSD, source_k=keys_BSI)
        return source_BSD, keys_BSI

    def matmul_flops(self) -> int:
        """All but the projection of the source."""
        return super().matmul_flops() - self.source.flops

    def source_matmul_flops(self) -> int:
        """U m."""
        return self.source.flops

    def source_mixing_flops(self, length: int, source: int) -> int:
        """Scores and means over all pairs."""
        return 2 * length * source * (self.hidden + self.source.in_features)

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """v from N(0, 1/√I)."""
        self.align_I.normal_(0.0, self.hidden**-0.5, generator=generator)
