"""Zamba's hybrid layer (2405.16712, section 2 and figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from models import schema
from models.branch import Branch, Frame
from models.channels.mlp import Mlp
from models.context import Context
from models.limits import split_heads
from models.linear import Linear
from models.mixers.attention import Attention
from models.mixers.mamba_heads import MambaHeads
from models.norm import RMSNorm


class Zamba(Branch, name="zamba"):
    """mamba(norm(x + L block([x; e]))): a Mamba layer that also reads what a block of attention and
    an MLP makes of the stream x and the embedding e side by side. All layers share the block; the
    map L and the Mamba layer are their own.

    mamba: options of `mamba_heads`. n_heads, head_width, n_kv_heads: the block's, of twice the
    width; scores are times √(2/K). hidden: of its gated MLP, by default 4 times the width.
    """

    derived = ("mamba",)
    reads_stream = True

    def __init__(
        self,
        frame: Frame,
        *,
        mamba: Mapping[str, Any] | None = None,
        n_heads: int | None = None,
        head_width: int | None = None,
        n_kv_heads: int | None = None,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.hidden = hidden or 4 * frame.width
        self.mamba = MambaHeads(frame, **schema.check(mamba or {}, MambaHeads, ("mamba",)))
        self.norm = RMSNorm(frame.width, frame.norm_eps)
        self.into = Linear(frame.width, frame.width)
        self.owned = nn.ModuleList()
        heads = (n_heads, head_width, n_kv_heads)
        name = f"zamba {heads} {hidden}"  # layers of other options share another
        block = frame.shared.get(name)
        if not isinstance(block, Block):
            block = frame.shared[name] = Block(frame, self.hidden, heads)
            self.owned.append(block)
        self.n_heads, self.head_width = block.attention.n_heads, block.attention.head_width
        self.n_kv_heads = block.attention.n_kv_heads
        self.block = (block,)  # a tuple is not registered: only the first layer owns it

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """What the layer adds to the stream."""
        side_BTD = self.into(self.block[0](x_BTD, context))
        y_BTD = self.mamba(self.norm(x_BTD + side_BTD), context)
        assert isinstance(y_BTD, Tensor)
        return y_BTD

    def matmul_flops(self) -> int:
        """The block's too, whoever owns it."""
        own = super().matmul_flops()
        others = 0 if len(self.owned) else self.block[0].matmul_flops()
        return own + others

    def mixing_flops(self, length: int) -> int:
        """Attention and scan."""
        return self.block[0].attention.mixing_flops(length) + self.mamba.mixing_flops(length)


class Block(nn.Module):
    """mlp(norm(attention(norm([x; e])))), without residuals."""

    def __init__(
        self, frame: Frame, hidden: int, heads: tuple[int | None, int | None, int | None]
    ) -> None:
        super().__init__()
        n_heads, head_width, n_kv_heads = heads
        base = frame.base_width and 2 * frame.base_width
        wide = replace(frame, width=2 * frame.width, base_width=base)
        self.before = RMSNorm(wide.width, frame.norm_eps)
        self.attention = Attention(
            wide, n_heads=n_heads, head_width=head_width, n_kv_heads=n_kv_heads
        )
        self.attention.scale = wide.score_scale(
            lambda width: split_heads(width, n_heads, head_width)[1] / 2
        )
        self.attention.out = Linear(self.attention.out.in_features, frame.width)
        self.between = RMSNorm(frame.width, frame.norm_eps)
        self.mlp = Mlp(frame, activation="geglu", hidden=hidden)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Of the stream; the embedding is the context's."""
        assert context.embedding_BTD is not None
        both = self.before(torch.cat([x_BTD, context.embedding_BTD], -1))
        y_BTD = self.mlp(self.between(self.attention(both, context)), context)
        assert isinstance(y_BTD, Tensor)
        return y_BTD

    def matmul_flops(self) -> int:
        """Of its projections."""
        return sum(part.flops for part in self.modules() if isinstance(part, Linear))
