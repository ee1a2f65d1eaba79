"""Linear attention and retention: a linear recurrence whose decay is fixed, if there is any."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.branch import Branch, Frame
from models.context import Context
from models.engines import linear_recurrence
from models.limits import features, split_heads
from models.linear import Linear
from models.positions import Rope, scheme, table_for, turn


class LinearAttention(Branch, name="linear_attention"):
    """y_t = φ(q_t)ᵀ Σ_{s≤t} γ^{t-s} φ(k_s) v_sᵀ, over φ(q_t)ᵀ Σ φ(k_s) if `normalize`.

    feature: φ, identity, elu+1 (2006.16236, equation 7), exp (softmax of each, 1812.01243) or
    random (Performer's FAVOR+, 2009.14794, equation 7): exp(ω_i·x - |x|²/2) of x/K^{1/4} for
    `n_features` fixed ω, in blocks of K orthogonal ones as long as Gaussian vectors, which estimate
    exp(q·k/√K); these need `normalize`.
    decay: none, or RetNet's γ_h = 1 - 2^{-5-h} (2307.08621, equation 8).
    gate: silu(W x) times the normalised heads (RetNet, equation 9).
    """

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int | None = None,
        head_width: int | None = None,
        feature: Literal["identity", "elu", "exp", "random"] = "elu",
        n_features: int | None = None,
        decay: Literal["none", "retention"] = "none",
        normalize: bool = True,
        gate: bool = False,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        features(feature, normalize)
        self.n_heads, self.head_width = split_heads(frame.width, n_heads, head_width)
        self.feature, self.decay, self.normalize, self.chunk = feature, decay, normalize, chunk
        self.eps = frame.norm_eps
        positions = scheme(frame.positions)
        self.rope = positions if isinstance(positions, Rope) else None
        inner = self.n_heads * self.head_width
        self.n_features = (n_features or 2 * self.head_width) if feature == "random" else None
        self.omega_KF: Tensor | None
        random_KF = torch.empty(self.head_width, self.n_features) if self.n_features else None
        self.register_buffer("omega_KF", random_KF)
        self.qkv = Linear(frame.width, 3 * inner)
        self.gate = Linear(frame.width, inner) if gate else None
        self.out = Linear(inner, frame.width, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        B, T = x_BTD.shape[:2]
        q, k, v = self.qkv(x_BTD).view(B, T, 3, self.n_heads, self.head_width).unbind(2)
        q, k = self._map(q, top=True), self._map(k)
        if self.rope is not None:
            table = table_for(self.rope, q, self.head_width, context)
            q, k = turn(q, *table), turn(k, *table)
        if self.feature != "random":
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
        keys = self.n_features or self.head_width
        flops = linear_recurrence.flops(length, self.n_heads, keys, values)
        if self.n_features:  # of queries and of keys
            flops += 2 * 2 * length * self.n_heads * self.head_width * self.n_features
        return flops

    def _map(self, x: Tensor, top: bool = False) -> Tensor:
        if self.omega_KF is not None:
            wide = torch.promote_types(x.dtype, torch.float32)
            x = x.to(wide) * self.head_width**-0.25
            exponent = x @ self.omega_KF.to(wide) - x.square().sum(-1, keepdim=True) / 2
            if top:  # a factor of a query's own, which the normaliser takes out again
                exponent = exponent - exponent.amax(-1, keepdim=True).detach()
            return exponent.exp()
        if self.feature == "elu":
            return F.elu(x) + 1
        return x.softmax(-1) if self.feature == "exp" else x

    def _log_decay(self, x: Tensor) -> Tensor:
        head_H = torch.arange(self.n_heads, device=x.device, dtype=torch.float32)
        if self.decay == "none":
            return torch.zeros_like(head_H)
        return torch.log1p(-(2 ** (-5 - head_H)))

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """Draw the random features."""
        if self.omega_KF is not None:
            width, n = self.omega_KF.shape
            self.omega_KF.copy_(orthogonal_features(width, n, generator))


def orthogonal_features(width: int, n: int, generator: torch.Generator) -> Tensor:
    """(K, F) columns of which each K are orthogonal, with lengths of Gaussian vectors (2009.14794,
    section 2.4)."""
    blocks = []
    for _ in range(-(-n // width)):
        turned, length = torch.randn(2, width, width, generator=generator, device=generator.device)
        q, r = torch.linalg.qr(turned)
        blocks.append(q * r.diagonal().sign() * length.norm(dim=0))
    return torch.cat(blocks, 1)[:, :n]
