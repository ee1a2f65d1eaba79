"""Attention from a decoder's positions to an encoder's output (1706.03762, section 3.2.3)."""

from __future__ import annotations

from torch import Tensor

from models.branch import Branch, Frame
from models.context import Context
from models.engines import softmax
from models.limits import kv_heads, split_heads
from models.linear import Linear

FULL = softmax.Mask(causal=False)


class Cross(Branch, name="cross"):
    """softmax(q kᵀ / √K) v, queries of the stream, keys and values of the source, without
    positions. The options are `attention`'s. Decoding keeps the source's keys and values."""

    derived = ("queries_per_kv",)

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int | None = None,
        head_width: int | None = None,
        n_kv_heads: int | None = None,
        queries_per_kv: int | None = None,
        bias: bool = False,
        out_bias: bool = False,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.n_heads, self.head_width = split_heads(frame.width, n_heads, head_width)
        self.n_kv_heads = kv_heads(self.n_heads, n_kv_heads, queries_per_kv)
        self.scale = scale or frame.score_scale(
            lambda width: split_heads(width, n_heads, head_width)[1]
        )
        inner = self.n_heads * self.head_width
        self.q = Linear(frame.width, inner, bias=bias)
        self.kv = Linear(frame.width, 2 * self.n_kv_heads * self.head_width, bias=bias)
        self.out = Linear(inner, frame.width, bias=out_bias, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Bring in what the source holds."""
        q_BTHK = self.q(x_BTD).view(*x_BTD.shape[:2], self.n_heads, self.head_width)
        k_BSGK, v_BSGK = self._source(context)
        here, there = context.segments_BT, context.source_segments_BS
        y_BTHK = softmax.attend(
            q_BTHK,
            k_BSGK,
            v_BSGK,
            FULL,
            scale=self.scale,
            segments=None if here is None or there is None else (here, there),
        )
        return self.out(y_BTHK.flatten(2))

    def _source(self, context: Context) -> tuple[Tensor, Tensor]:
        state = context.state
        if state:
            return state["source_k"], state["source_v"]
        source_BSD = context.source_BSD
        assert source_BSD is not None
        kv = self.kv(source_BSD).view(*source_BSD.shape[:2], 2 * self.n_kv_heads, self.head_width)
        k_BSGK, v_BSGK = kv.chunk(2, 2)
        if state is not None:
            state.update(source_k=k_BSGK, source_v=v_BSGK)
        return k_BSGK, v_BSGK

    def matmul_flops(self) -> int:
        """Queries and the output."""
        return self.q.flops + self.out.flops

    def source_matmul_flops(self) -> int:
        """Keys and values."""
        return self.kv.flops

    def source_mixing_flops(self, length: int, source: int) -> int:
        """Scores and weighted values over all pairs."""
        return softmax.flops(FULL, length, source, self.n_heads, self.head_width, self.head_width)
