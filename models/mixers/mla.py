"""Multi-head latent attention (DeepSeek-V2, 2405.04434, section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.branch import Branch, Frame
from models.context import Context
from models.engines import softmax
from models.limits import head_width_for
from models.linear import Linear
from models.mixers.softmax import attend
from models.norm import RMSNorm
from models.positions import Rope, scheme, table_for, turn


class Mla(Branch, name="mla"):
    """Keys and values come from a latent of `kv_rank` that is all the cache holds, beside one key
    of `rope_width` that turns with the position and that all heads share:

        c = norm(W_a x),  [k_h; v_h] = W_b c,  q_h·[k_h; k_rope],  q from W x or from a latent too.

    Widths: nope_width is attention's rule for a head, rope_width half of it, v_width the same,
    kv_rank four times (the paper's 128, 64, 128, 512). q_rank null: queries without a latent.
    """

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int | None = None,
        nope_width: int | None = None,
        rope_width: int | None = None,
        v_width: int | None = None,
        kv_rank: int | None = None,
        q_rank: int | None = None,
        bias: bool = False,
        scale: float | None = None,
    ) -> None:
        super().__init__()

        def key_width(width: int) -> tuple[int, int]:
            nope = nope_width or head_width_for(width)
            return nope, rope_width or max(2, nope // 2)

        self.nope_width, self.rope_width = key_width(frame.width)
        self.v_width = v_width or self.nope_width
        self.kv_rank = kv_rank or 4 * self.nope_width
        self.n_heads = n_heads or max(1, frame.width // self.nope_width)
        self.q_width = self.nope_width + self.rope_width
        self.scale = scale or frame.score_scale(lambda width: sum(key_width(width)))
        positions = scheme(frame.positions)
        self.rope = positions if isinstance(positions, Rope) else None
        D, H = frame.width, self.n_heads
        self.q_a = Linear(D, q_rank, bias=bias) if q_rank else None
        self.q_norm = RMSNorm(q_rank, frame.norm_eps) if q_rank else None
        self.q = Linear(q_rank or D, H * self.q_width)
        self.kv_a = Linear(D, self.kv_rank + self.rope_width, bias=bias)
        self.kv_norm = RMSNorm(self.kv_rank, frame.norm_eps)
        self.kv = Linear(self.kv_rank, H * (self.nope_width + self.v_width))
        self.out = Linear(H * self.v_width, D, bias=bias, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        B, T = x_BTD.shape[:2]
        latent = x_BTD if self.q_a is None or self.q_norm is None else self.q_norm(self.q_a(x_BTD))
        q = self.q(latent).view(B, T, self.n_heads, self.q_width)
        q_nope, q_rope = torch.split(q, [self.nope_width, self.rope_width], -1)
        c, k_rope = torch.split(self.kv_a(x_BTD), [self.kv_rank, self.rope_width], -1)
        c, k_rope = self.kv_norm(c), k_rope[:, :, None]
        if self.rope is not None:
            table = table_for(self.rope, q_rope, self.rope_width, context)
            q_rope, k_rope = turn(q_rope, *table), turn(k_rope, *table)
        if context.state is not None:
            c, k_rope = _remember(context.state, c, k_rope)
        kv = self.kv(c).view(B, c.shape[1], self.n_heads, -1)
        k_nope, v = torch.split(kv, [self.nope_width, self.v_width], -1)
        k = torch.cat([k_nope, k_rope.expand(-1, -1, self.n_heads, -1)], -1)
        q = torch.cat([q_nope, q_rope], -1)
        y = attend(q, k, v, softmax.Mask(), context, scale=self.scale)
        return self.out(y.flatten(2))

    def mixing_flops(self, length: int) -> int:
        """Scores and weighted values over the visible pairs (keys and values unfolded)."""
        return softmax.flops(
            softmax.Mask(), length, length, self.n_heads, self.q_width, self.v_width
        )


def _remember(state: dict[str, Tensor], c: Tensor, k_rope: Tensor) -> tuple[Tensor, Tensor]:
    if state:
        c, k_rope = torch.cat([state["c"], c], 1), torch.cat([state["k_rope"], k_rope], 1)
    state.update(c=c, k_rope=k_rope)
    return c, k_rope
