"""Attention: multi-head, multi-query, grouped (2305.13245), windowed, with any position scheme."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.branch import Branch, Frame
from models.context import Context
from models.engines import softmax
from models.engines.ring import Bias
from models.limits import kv_heads, split_heads
from models.linear import Linear
from models.mixers.softmax import attend
from models.norm import RMSNorm
from models.positions import Alibi, Relative, Rope, scheme, table_for, turn


class Attention(Branch, name="attention"):
    """softmax(q kᵀ / √K) v over the visible positions (1706.03762).

    n_kv_heads: 1 is multi-query, fewer than n_heads grouped; queries_per_kv says the same as a
    ratio. window, stride, local, n_global, chunk: see `Mask`. qk_norm: RMSNorm of queries and keys,
    of each head (Gemma 3), all at once (OLMo 2), or of each head after turning and without weights
    (unit: Llama 4). bias: on q, k, v and, with out_bias, on the output. softcap: scores pass
    cap·tanh(s/cap) (Gemma 2, 2408.00118). scale: of the scores, by default `Frame.score_scale`.
    rotary: whether rotary positions turn this branch's heads. temperature s: queries grow with
    their position p, by 1 + s log(1 + ⌊(p + 1) / temperature_floor⌋) (2501.19399, as in Llama 4).
    gate: the output is times σ(W x) (2505.06708).
    """

    derived = ("queries_per_kv",)

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int | None = None,
        head_width: int | None = None,
        n_kv_heads: int | None = None,
        queries_per_kv: int | None = None,
        causal: bool = True,
        window: int | None = None,
        stride: int | None = None,
        local: int = 1,
        n_global: int = 0,
        chunk: int | None = None,
        qk_norm: Literal["none", "head", "full", "unit"] = "none",
        bias: bool = False,
        out_bias: bool = False,
        softcap: float | None = None,
        scale: float | None = None,
        rotary: bool = True,
        temperature: float = 0.0,
        temperature_floor: int = 8192,
        gate: bool = False,
    ) -> None:
        super().__init__()
        self.n_heads, self.head_width = split_heads(frame.width, n_heads, head_width)
        self.n_kv_heads = kv_heads(self.n_heads, n_kv_heads, queries_per_kv)
        self.mask = softmax.Mask(causal, window, stride, local, n_global, chunk)
        self.softcap = softcap
        self.scale = scale or frame.score_scale(
            lambda width: split_heads(width, n_heads, head_width)[1]
        )
        positions = scheme(frame.positions)
        self.rope = positions if isinstance(positions, Rope) and rotary else None
        self.temperature, self.temperature_floor = temperature, temperature_floor
        self.gate, self.unit_eps = gate, frame.norm_eps if qk_norm == "unit" else None
        self.alibi = positions if isinstance(positions, Alibi) else None
        self.relative = isinstance(positions, Relative)
        inner = self.n_heads * self.head_width
        n_out = inner * (1 + gate) + 2 * self.n_kv_heads * self.head_width
        self.qkv = Linear(frame.width, n_out, bias=bias)
        self.q_norm, self.k_norm = (
            None if qk_norm in ("none", "unit") else RMSNorm(n * self.head_width, frame.norm_eps)
            for n in ((1, 1) if qk_norm == "head" else (self.n_heads, self.n_kv_heads))
        )
        self.out = Linear(inner, frame.width, bias=out_bias, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        H, G = self.n_heads, self.n_kv_heads
        qkv = self.qkv(x_BTD).view(*x_BTD.shape[:2], -1, self.head_width)
        qk, v_BSGK, gate = qkv.tensor_split([H + G, H + 2 * G], 2)
        if self.q_norm is not None and self.k_norm is not None:
            parts = zip((self.q_norm, self.k_norm), torch.split(qk, [H, G], 2), strict=True)
            qk = torch.cat([_normed(norm, part) for norm, part in parts], 2)
        if self.rope is not None:
            qk = turn(qk, *table_for(self.rope, qk, self.head_width, context))
        if self.unit_eps is not None:
            qk = F.rms_norm(qk, qk.shape[-1:], eps=self.unit_eps)
        q_BTHK, k_BSGK = qk[:, :, :H], qk[:, :, H:]
        if self.temperature:
            q_BTHK = q_BTHK * self._growth(x_BTD, context)
        if context.state is not None:
            k_BSGK, v_BSGK = _remember(context.state, k_BSGK, v_BSGK, self.mask)
        y_BTHK = attend(
            q_BTHK,
            k_BSGK,
            v_BSGK,
            self.mask,
            context,
            scale=self.scale,
            bias=self._bias(q_BTHK, context),
            softcap=self.softcap,
        )
        if self.gate:
            y_BTHK = y_BTHK * gate.sigmoid()
        return self.out(y_BTHK.flatten(2))

    def mixing_flops(self, length: int) -> int:
        """Scores and weighted values over the visible pairs."""
        return softmax.flops(
            self.mask, length, length, self.n_heads, self.head_width, self.head_width
        )

    def _growth(self, x_BTD: Tensor, context: Context) -> Tensor:
        at = context.positions_BT
        if at is None:
            at = torch.arange(x_BTD.shape[1], device=x_BTD.device) + context.offset
        stretches = (at + 1) // self.temperature_floor
        return (1 + self.temperature * stretches.log1p())[..., None, None].to(x_BTD.dtype)

    def _bias(self, q_BTHK: Tensor, context: Context) -> Bias | None:
        alibi, n_heads, dtype = self.alibi, self.n_heads, q_BTHK.dtype
        if self.relative:  # made once for the stack; of the keys that a window has left
            return lambda heads, queries, keys: context.relative[heads, :, -len(keys) :]
        if alibi is None:
            return None

        def made(heads: slice, queries: range, keys: range) -> Tensor:
            query_T, key_S = (
                torch.arange(part.start, part.stop, device=q_BTHK.device)
                for part in (queries, keys)
            )
            return alibi.bias(n_heads, query_T, key_S, dtype, heads)

        def once(heads: slice, queries: range, keys: range) -> Tensor:
            key = (alibi, n_heads, dtype, heads.start, queries, keys)
            return context.once(key, lambda: made(heads, queries, keys))

        return once


def _normed(norm: RMSNorm, x_BTHK: Tensor) -> Tensor:
    """One head at a time or all at once, as wide as the norm is."""
    x: Tensor = norm(x_BTHK.reshape(*x_BTHK.shape[:2], -1, norm.weight.numel()))
    return x.view_as(x_BTHK)


def _remember(
    state: dict[str, Tensor], k_BSGK: Tensor, v_BSGK: Tensor, mask: softmax.Mask
) -> tuple[Tensor, Tensor]:
    """Put the keys and values seen before in front; keep what later queries can see."""
    if state:
        k_BSGK = torch.cat([state["k"], k_BSGK], 1)
        v_BSGK = torch.cat([state["v"], v_BSGK], 1)
    first = mask.unseen(k_BSGK.shape[1])
    state.update(k=k_BSGK[:, first:], v=v_BSGK[:, first:])
    return k_BSGK, v_BSGK
