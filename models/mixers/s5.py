"""S5 (2208.04933): one state space of many inputs and outputs, diagonal, by a scan."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import diagonal
from models.linear import Linear
from models.mixers.s4 import hippo_frequencies


class S5(Branch, name="s5"):
    """gelu(y) · σ(W gelu(y)), y_t = Re C h_t + D x_t with

        h_t = exp(ΔΛ) h_{t-1} + (exp(ΔΛ) - 1) / Λ · B x_t      (equations 2 and 6)

    of n_states in all, conjugate pairs counted as two (by default the width). Λ starts at the
    eigenvalues of HiPPO-LegS' normal part (section 3.3) and every state has its own Δ; B and C are
    plain matrices to and from real and imaginary parts, without the paper's change of basis.
    """

    derived = ("dt_min", "dt_max")

    def __init__(
        self,
        frame: Frame,
        *,
        n_states: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        D, S = frame.width, max(1, (n_states or frame.width) // 2)
        self.n_states, self.dt_range = 2 * S, (dt_min, dt_max)
        self.into = Linear(D, 2 * S)
        self.log_rate_S, self.frequency_S, self.log_dt_S = (
            nn.Parameter(torch.empty(S)) for _ in range(3)
        )
        self.read = Linear(2 * S, D)
        self.skip_D = nn.Parameter(torch.empty(D))
        self.out = Linear(D, D, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        real, imaginary = self.into(x_BTD).to(wide).chunk(2, -1)
        rate = torch.complex(-self.log_rate_S.to(wide).exp(), self.frequency_S.to(wide))
        pole_S = self.log_dt_S.to(wide).exp() * rate
        u_BTS = torch.complex(real, imaginary) * (torch.expm1(pole_S) / rate)
        state = context.state
        before = torch.view_as_complex(state["ssm"]) if state else None
        h_BTS, last = diagonal.scan(u_BTS, pole_S.exp().expand_as(u_BTS), context.starts_BT, before)
        if state is not None:
            state["ssm"] = torch.view_as_real(last)
        y = self.read(torch.cat([h_BTS.real, h_BTS.imag], -1).to(x_BTD.dtype))
        y = F.gelu(torch.addcmul(y, x_BTD, self.skip_D))
        return y * self.out(y).sigmoid()

    def mixing_flops(self, length: int) -> int:
        """The scan, the input's factor (6 per state) and D x."""
        S, D = len(self.log_rate_S), len(self.skip_D)
        return diagonal.flops(length, S, complex_valued=True) + length * (6 * S + 2 * D)

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """Λ from HiPPO, Δ log-uniform in its range, D standard normal."""
        S = len(self.log_rate_S)
        self.log_rate_S.fill_(math.log(0.5))
        self.frequency_S.copy_(hippo_frequencies(S, self.log_rate_S.device))
        self.log_dt_S.uniform_(*(math.log(end) for end in self.dt_range), generator=generator)
        self.skip_D.normal_(generator=generator)
