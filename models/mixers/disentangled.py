"""Disentangled attention of contents and distances (DeBERTa, 2006.03654)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.branch import Branch, Frame
from models.context import Context
from models.engines import softmax
from models.errors import RecipeError
from models.limits import split_heads
from models.linear import Linear
from models.positions import Disentangled as Distances
from models.positions import scheme

FULL = softmax.Mask(causal=False)


class Disentangled(Branch, name="disentangled"):
    """softmax((q_i·k_j + q_i·k'_δ + k_j·q'_δ) / √(3K)) v (equation 4), δ the distance from j to i
    and k', q' projections of its vector; all positions are seen. Needs positions of type
    disentangled.

    share: k' and q' are made by the weights of k and q (version 2), or by their own.
    content_to_position and position_to_content: the second and the third term; the scale counts
    those that there are.
    """

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int | None = None,
        head_width: int | None = None,
        share: bool = True,
        content_to_position: bool = True,
        position_to_content: bool = True,
        bias: bool = True,
        out_bias: bool = True,
    ) -> None:
        super().__init__()
        self.n_heads, self.head_width = split_heads(frame.width, n_heads, head_width)
        self.c2p, self.p2c, self.share = content_to_position, position_to_content, share
        self.places = scheme(frame.positions)
        if not isinstance(self.places, Distances):
            raise RecipeError(
                ("positions", "type"), frame.positions["type"], ["disentangled"], "has no distances"
            )
        n_terms = self.c2p + self.p2c
        self.scale = frame.score_scale(
            lambda width: split_heads(width, n_heads, head_width)[1] * (1 + n_terms)
        )
        inner = self.n_heads * self.head_width
        self.qkv = Linear(frame.width, 3 * inner, bias=bias)
        self.distance = None if share else Linear(frame.width, n_terms * inner, bias=bias)
        self.out = Linear(inner, frame.width, bias=out_bias, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        qkv = self.qkv(x_BTD).view(*x_BTD.shape[:2], 3 * self.n_heads, self.head_width)
        q_BTHK, k_BTHK, v_BTHK = qkv.chunk(3, 2)
        segments = context.segments_BT
        y_BTHK = softmax.attend(
            q_BTHK,
            k_BTHK,
            v_BTHK,
            FULL,
            scale=self.scale,
            segments=None if segments is None else (segments, segments),
            bias_HTS=self._bias(q_BTHK, k_BTHK, *context.relative),
        )
        return self.out(y_BTHK.flatten(2))

    def _bias(self, q_BTHK: Tensor, k_BTHK: Tensor, rows_RD: Tensor, index_TS: Tensor) -> Tensor:
        """The two terms with distances (algorithm 1), shape (B, H, T, S)."""
        B, T, H, _ = q_BTHK.shape
        index = index_TS.expand(B, H, T, T)
        terms = q_BTHK.new_zeros(B, H, T, T)
        if self.p2c:
            scores = torch.einsum("bshk,rhk->bhsr", k_BTHK, self._near(rows_RD, 0))
            terms = terms + scores.gather(-1, index.mT).mT
        if self.c2p:
            scores = torch.einsum("bthk,rhk->bhtr", q_BTHK, self._near(rows_RD, 1))
            terms = terms + scores.gather(-1, index)
        bias_BHTS: Tensor = terms * self.scale
        return bias_BHTS

    def _near(self, rows_RD: Tensor, which: int) -> Tensor:
        """q' (0) or k' (1) of the distances, (R, H, K)."""
        made_by, inner = self.qkv, self.n_heads * self.head_width
        if self.distance is not None:
            made_by, which = self.distance, which if self.p2c else 0
        part = slice(which * inner, (which + 1) * inner)
        bias = None if made_by.bias is None else made_by.bias[part]
        near = F.linear(rows_RD, made_by.weight[part], bias)
        return near.view(-1, self.n_heads, self.head_width)

    def matmul_flops(self) -> int:
        """Those of tokens; a sequence's distances are in `mixing_flops`."""
        return self.qkv.flops + self.out.flops

    def mixing_flops(self, length: int) -> int:
        """All pairs of contents; the distances that occur, projected, and each with every
        content."""
        H, K = self.n_heads, self.head_width
        first, last = self.places.rows(length)
        each = 2 * (self.qkv.in_features + length) * H * K * (self.c2p + self.p2c)
        n_rows: int = last - first + 1
        return softmax.flops(FULL, length, length, H, K, K) + n_rows * each
