"""Linear attention and retention: a linear recurrence whose decay is fixed, if there is any."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.branch import Branch, Frame
from models.context import Context
from models.engines import linear_recurrence
from models.limits import split_heads
from models.linear import Linear
from models.positions import Rope, scheme, table_for, turn


class LinearAttention(Branch, name="linear_attention"):
    """y_t = φ(q_t)ᵀ Σ_{s≤t} γ^{t-s} φ(k_s) v_sᵀ, over φ(q_t)ᵀ Σ φ(k_s) if `normalize`.

    feature: φ, identity, elu+1 (2006.16236, equation 7) or exp (softmax of each, 1812.01243).
    decay: none, or RetNet's γ_h = 1 - 2^{-5-h} (2307.08621, equation 8).
    gate: silu(W x) times the normalised heads (RetNet, equation 9).
    """

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int | None = None,
        head_width: int | None = None,
        feature: Literal["identity", "elu", "exp"] = "elu",
        decay: Literal["none", "retention"] = "none",
        normalize: bool = True,
        gate: bool = False,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        self.n_heads, self.head_width = split_heads(frame.width, n_heads, head_width)
        self.feature, self.decay, self.normalize, self.chunk = feature, decay, normalize, chunk
        self.eps = frame.norm_eps
        positions = scheme(frame.positions)
        self.rope = positions if isinstance(positions, Rope) else None
        inner = self.n_heads * self.head_width
        self.qkv = Linear(frame.width, 3 * inner)
        self.gate = Linear(frame.width, inner) if gate else None
        self.out = Linear(inner, frame.width, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        B, T = x_BTD.shape[:2]
        q, k, v = self.qkv(x_BTD).view(B, T, 3, self.n_heads, self.head_width).unbind(2)
        q, k = self._map(q), self._map(k)
        if self.rope is not None:
            table = table_for(self.rope, q, self.head_width, context)
            q, k = turn(q, *table), turn(k, *table)
        q = q * self.head_width**-0.5
        if self.normalize:  # a value of one everywhere sums the keys
            v = F.pad(v, (0, 1), value=1.0)
        state = context.state
        y, last = linear_recurrence.recur(
            q,
            k,
            v,
            self._log_decay(x_BTD).expand(B, T, -1),
            context.starts_BT,
            state.get("memory") if state else None,
            chunk=self.chunk,
        )
        if state is not None:
            state["memory"] = last
        if self.normalize:
            y = y[..., :-1] / (y[..., -1:] + self.eps)
        if self.gate is None:
            return self.out(y.flatten(2))
        normed = F.rms_norm(y, (self.head_width,), eps=self.eps).flatten(2)
        return self.out(normed * F.silu(self.gate(x_BTD)))

    def mixing_flops(self, length: int) -> int:
        """The recurrence, with a column more if normalised."""
        values = self.head_width + self.normalize
        return linear_recurrence.flops(length, self.n_heads, self.head_width, values)

    def _map(self, x: Tensor) -> Tensor:
        if self.feature == "elu":
            return F.elu(x) + 1
        return x.softmax(-1) if self.feature == "exp" else x

    def _log_decay(self, x: Tensor) -> Tensor:
        head_H = torch.arange(self.n_heads, device=x.device, dtype=torch.float32)
        if self.decay == "none":
            return torch.zeros_like(head_H)
        return torch.log1p(-(2 ** (-5 - head_H)))
