"""Attention of a recurrent decoder to its source, after the cell (Luong, 1508.04025)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines.softmax import same_segment
from models.linear import Linear


class Luong(Branch, name="luong"):
    """tanh(W [c_t; h_t]) (equation 5), c_t the mean of the source m by softmax of scores.

    score: dot h·m, general h·W m, concat v·tanh(W [h; m]) (section 3.1).
    span: global sees the whole source; monotonic (local-m) what lies within `reach` of p = t, or of
    the last position for later t; predictive (local-p) of p = (S - 1) σ(v·tanh(W h)), under a
    Gaussian about p of deviation reach/2 (equation 10), which alone lets p learn.
    """

    def __init__(
        self,
        frame: Frame,
        *,
        score: Literal["dot", "general", "concat"] = "general",
        span: Literal["global", "monotonic", "predictive"] = "global",
        reach: int = 10,
    ) -> None:
        super().__init__()
        self.score, self.span, self.reach = score, span, reach
        width = frame.width
        self.query = None if score == "dot" else Linear(width, width)
        self.source = Linear(width, width) if score == "concat" else None
        self.align_D = nn.Parameter(torch.empty(width)) if score == "concat" else None
        predicts = span == "predictive"
        self.place = Linear(width, width) if predicts else None
        self.place_out = Linear(width, 1) if predicts else None
        self.out = Linear(2 * width, width, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Bring in what the source holds."""
        source_BSD, keys_BSD = self._source(context)
        scores_BTS = self._scores(x_BTD, keys_BSD)
        length = source_BSD.shape[1]
        seen = torch.ones(1, 1, length, dtype=torch.bool, device=x_BTD.device)
        here, there = context.segments_BT, context.source_segments_BS
        if here is not None and there is not None:
            seen = same_segment(here, there)[:, 0]
        nearness = None
        if self.span != "global":
            away_BTS = self._away(x_BTD, seen, context)
            seen = seen & (away_BTS.abs() <= self.reach)
            nearness = torch.exp(-2 * (away_BTS / self.reach).square())
        weights_BTS = scores_BTS.masked_fill(~seen, -torch.inf).softmax(-1)
        if self.span == "predictive" and nearness is not None:
            weights_BTS = weights_BTS * nearness
        return torch.tanh(self.out(torch.cat([weights_BTS @ source_BSD, x_BTD], -1)))

    def _source(self, context: Context) -> tuple[Tensor, Tensor]:
        state = context.state
        if state:
            return state["source"], state["source_k"]
        source_BSD = context.source_BSD
        assert source_BSD is not None
        keys_BSD = source_BSD if self.source is None else self.source(source_BSD)
        if state is not None:
            state.update(source=source_BSD, source_k=keys_BSD)
        return source_BSD, keys_BSD

    def _scores(self, x_BTD: Tensor, keys_BSD: Tensor) -> Tensor:
        q_BTD = x_BTD if self.query is None else self.query(x_BTD)
        if self.align_D is None:
            return q_BTD @ keys_BSD.mT
        return torch.tanh(q_BTD[:, :, None] + keys_BSD[:, None]) @ self.align_D

    def _away(self, x_BTD: Tensor, seen_BTS: Tensor, context: Context) -> Tensor:
        """s - p_t, both counted from the beginning of the source's document."""
        first_BT = seen_BTS.int().argmax(-1)
        count_BT = seen_BTS.sum(-1)
        if self.place is None or self.place_out is None:
            at = context.positions_BT
            if at is None:
                at = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None] + context.offset
            place_BT = torch.minimum(at, count_BT - 1)
        else:
            share_BT = self.place_out(torch.tanh(self.place(x_BTD)))[..., 0].sigmoid()
            place_BT = (count_BT - 1) * share_BT
        index_S = torch.arange(seen_BTS.shape[-1], device=x_BTD.device)
        return (index_S - first_BT[..., None] - place_BT[..., None]).to(x_BTD.dtype)

    def matmul_flops(self) -> int:
        """All but the projection of the source."""
        return super().matmul_flops() - self.source_matmul_flops()

    def source_matmul_flops(self) -> int:
        """The source's part of `concat`."""
        return 0 if self.source is None else self.source.flops

    def source_mixing_flops(self, length: int, source: int) -> int:
        """Scores and means over the pairs in reach; a predicted window is counted whole."""
        width, reach = self.out.out_features, self.reach
        pairs = length * source
        if self.span == "predictive":
            pairs = length * min(source, 2 * reach + 1)
        elif self.span == "monotonic":
            places = (min(t, source - 1) for t in range(length))
            pairs = sum(min(source, p + reach + 1) - max(0, p - reach) for p in places)
        return 4 * pairs * width

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """v from N(0, 1/√D)."""
        if self.align_D is not None:
            self.align_D.normal_(0.0, len(self.align_D) ** -0.5, generator=generator)
