"""Mamba-3 (Mamba-3: Improved Sequence Modeling using State Space Principles, ICLR 2026)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import linear_recurrence
from models.limits import inner_heads
from models.linear import Linear
from models.mixers.mamba import init_dt_bias
from models.norm import RMSNorm
from models.positions import turn

A_FLOOR = 1e-4


class Mamba3(Branch, name="mamba3"):
    """out(Σ_r o_r y_r silu(z_r)), y_r = C_rᵀ h + D x_r, and by the trapezoidal rule, with
    a_t = exp(Δ_t A_t) and λ_t = σ(·),

        h_t = a_t h_{t-1} + (1 - λ_t) Δ_t a_t B_{t-1} x_{t-1}ᵀ + λ_t Δ_t B_t x_tᵀ.

    A complex state is a real one whose B and C turn by angles that add up, Σ Δ_t θ_t, over a
    `rotated` share of the states. Of `rank` R, B, C and x are R vectors a position (MIMO): those of
    x, z and the output come from one by factors per head. B and C are RMS-normalised and get a bias
    per head; there is no short convolution. A = -softplus(·) comes from the input.
    """

    derived = ("dt_min", "dt_max", "chunk")

    def __init__(
        self,
        frame: Frame,
        *,
        n_states: int = 128,
        head_width: int | None = None,
        rank: int = 1,
        rotated: float = 0.5,
        expansion: float = 2.0,
        chunk: int = 64,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        self.inner, self.n_heads, self.head_width = inner_heads(
            frame.width, expansion, head_width, 1
        )
        self.n_states, self.rank, self.n_angles = n_states, rank, int(n_states * rotated) // 2
        self.chunk, self.dt_range = max(1, chunk // rank), (dt_min, dt_max)
        H, P, S, R = self.n_heads, self.head_width, n_states, rank
        self.widths = [self.inner, self.inner, R * S, R * S, H, H, H, self.n_angles]
        self.into = Linear(frame.width, sum(self.widths))
        self.dt_bias = nn.Parameter(torch.empty(H))
        self.B_norm, self.C_norm = (RMSNorm(S, frame.norm_eps) for _ in range(2))
        self.offsets_2RHS = nn.Parameter(torch.empty(2, R, H, S))  # of B, of C
        self.skip_H = nn.Parameter(torch.empty(H))
        self.factors_3RHP = nn.Parameter(torch.empty(3, R, H, P)) if rank > 1 else None
        self.out = Linear(self.inner, frame.width, role="out")

    def forward(self, u_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        batch, T, H = *u_BTD.shape[:2], self.n_heads
        wide = torch.promote_types(u_BTD.dtype, torch.float32)
        parts = torch.split(self.into(u_BTD), self.widths, -1)
        z, x = (part.to(wide).view(batch, T, 1, H, -1) for part in parts[:2])
        delta = F.softplus(parts[4].to(wide) + self.dt_bias)
        log_decay = -F.softplus(parts[5].to(wide)).clamp(min=A_FLOOR) * delta
        now = parts[6].to(wide).sigmoid() * delta  # λΔ, and (1 - λ)Δ is for the position before
        past = delta - now
        k, q = self._turned(parts[2], parts[3], parts[7].to(wide), delta, context)
        ways = None if self.factors_3RHP is None else self.factors_3RHP.to(wide)
        v = x if ways is None else x * ways[0]
        y = self._recur(q, k, v, log_decay, now, past, context)
        y = y + self.skip_H.to(wide)[:, None] * v
        y = y * F.silu(z) if ways is None else (y * F.silu(z * ways[1]) * ways[2]).sum(2)
        return self.out(y.reshape(batch, T, self.inner).to(u_BTD.dtype))

    def _turned(
        self, B: Tensor, C: Tensor, theta: Tensor, delta_BTH: Tensor, context: Context
    ) -> tuple[Tensor, Tensor]:
        """B and C of every head, (B, T, R, H, S), turned by the sum of the angles so far."""
        batch, T = B.shape[:2]
        angle = (delta_BTH[..., None] * theta[:, :, None]).cumsum(1)  # B T H angles
        state = context.state
        if state is not None:
            angle = angle + state["angle"] if state else angle
            state["angle"] = angle[:, -1:]
        table = angle.cos()[:, :, None], angle.sin()[:, :, None]
        parts = []
        for part, norm, offset in zip(
            (B, C), (self.B_norm, self.C_norm), self.offsets_2RHS, strict=True
        ):
            normed = norm(part.reshape(batch, T, self.rank, 1, self.n_states)).to(theta.dtype)
            parts.append(turn(normed + offset, *table))
        return parts[0], parts[1]

    def _recur(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        now: Tensor,
        past: Tensor,
        context: Context,
    ) -> Tensor:
        """What a position adds weighs λΔ for itself and, since what comes before the next decay is
        one sum, λΔ + (1 - λ')Δ' (of the next position) for all later ones."""
        R, state = self.rank, context.state
        runs = (slice(None), slice(None), None, slice(None), None)
        later = now + F.pad(past[:, 1:], (0, 0, 0, 1))
        starts = context.starts_BT
        before = None
        if state is not None and "memory" in state:
            added = torch.einsum("brhs,brhp->bhsp", state["k"], state["v"])
            before = state["memory"] + past[:, 0, :, None, None] * added

        def flat(x: Tensor) -> Tensor:  # runs of R positions, the first of them at the step in time
            return x.flatten(1, 2)

        def first(x: Tensor) -> Tensor:
            return F.pad(x[:, :, None], (0, 0) * (x.ndim - 2) + (0, R - 1)).flatten(1, 2)

        y, last = linear_recurrence.recur(
            flat(q),
            flat(k),
            flat(v * later[runs]),
            first(log_decay),
            None if starts is None else first(starts),
            before,
            chunk=self.chunk,
            apart=R,
        )
        if state is not None:
            state.update(memory=last, k=k[:, -1], v=v[:, -1])
        own = torch.einsum("btrhs,btqhs->bthrq", q, k)
        own = torch.einsum("bthrq,btqhp->btrhp", own, v * now[runs])
        return y.view_as(own) + own

    def mixing_flops(self, length: int) -> int:
        """Per element of the state its decay (1), two inputs of rank R (4 R) and the read-out
        (2 R); D x of each of the R."""
        states = self.n_heads * self.n_states * self.head_width
        return length * ((1 + 6 * self.rank) * states + 2 * self.rank * self.inner)

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """Biases of B and C, D and the factors 1 (those into and out of the state 1/R), Δ's bias as
        Mamba's (the authors' code)."""
        init_dt_bias(self.dt_bias, self.dt_range, generator)
        self.offsets_2RHS.fill_(1.0)
        self.skip_H.fill_(1.0)
        if self.factors_3RHP is not None:
            self.factors_3RHP.fill_(1 / self.rank)
            self.factors_3RHP[1].fill_(1.0)
