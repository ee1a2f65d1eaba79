"""S4 (2111.00396) with a diagonal state, S4D (2206.11893)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import long_conv
from models.linear import Linear


class S4(Branch, name="s4"):
    """glu(W gelu(y)), y_t = 2 Re Σ_n C_n h_n,t + D x_t per channel, with

        h_t = exp(ΔA) h_{t-1} + (exp(ΔA) - 1) / A · x_t      (zero-order hold)

    n_states counts conjugate pairs as two. A starts at the diagonal of HiPPO-LegS' normal part
    (S4D-LegS, 2206.11893, section 4), the low-rank part of S4 proper being left out. A row is one
    convolution; decoding goes on from the state.
    """

    derived = ("dt_min", "dt_max")

    def __init__(
        self, frame: Frame, *, n_states: int = 64, dt_min: float = 1e-3, dt_max: float = 0.1
    ) -> None:
        super().__init__()
        D, S = frame.width, max(1, n_states // 2)
        self.dt_range = (dt_min, dt_max)
        self.log_rate_DS, self.frequency_DS = (nn.Parameter(torch.empty(D, S)) for _ in range(2))
        self.C_DS2 = nn.Parameter(torch.empty(D, S, 2))
        self.log_dt_D, self.skip_D = (nn.Parameter(torch.empty(D)) for _ in range(2))
        self.out = Linear(D, 2 * D, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        T, wide = x_BTD.shape[1], torch.promote_types(x_BTD.dtype, torch.float32)
        x = x_BTD.to(wide)
        pole_DS, C_DS = self._system(wide)
        segments_BT, state = context.segments_BT, context.state
        lengths = None
        if segments_BT is not None:
            lengths = context.once("documents", lambda: long_conv.documents(segments_BT))
        y = long_conv.conv(x, _kernel(pole_DS, C_DS, T), lengths)
        if state is not None:
            power_DST = (pole_DS[..., None] * torch.arange(1, T + 1, device=x.device)).exp()
            first_BT1, last_BT1 = _ends(context, x)
            inputs = (x * last_BT1).to(C_DS.dtype)
            added = torch.einsum("btd,dst->bds", inputs, _later(power_DST))
            if state:
                before = torch.view_as_complex(state["ssm"])
                carried = torch.einsum("ds,dst,bds->btd", C_DS, power_DST, before).real
                y = y + 2 * first_BT1 * carried
                added = added + first_BT1[:, -1:] * power_DST[..., -1] * before
            state["ssm"] = torch.view_as_real(added)
        y = F.gelu(torch.addcmul(y, x, self.skip_D.to(wide))).to(x_BTD.dtype)
        return F.glu(self.out(y), -1)

    def _system(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """ΔA, and C times what a unit of input adds to the state."""
        A = torch.complex(-self.log_rate_DS.to(dtype).exp(), self.frequency_DS.to(dtype))
        pole_DS = self.log_dt_D.to(dtype).exp()[:, None] * A
        return pole_DS, torch.view_as_complex(self.C_DS2.to(dtype)) * torch.expm1(pole_DS) / A

    def mixing_flops(self, length: int) -> int:
        """As a recurrence: per complex state decay (6), input (2 and 2), read-out (4); D x (2)."""
        return length * (14 * self.log_rate_DS.numel() + 2 * len(self.skip_D))

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """A from HiPPO, Δ log-uniform in its range, C of unit variance, D = 1."""
        _, n = self.log_rate_DS.shape
        self.log_rate_DS.fill_(math.log(0.5))
        self.frequency_DS.copy_(hippo_frequencies(n, self.log_rate_DS.device))
        self.C_DS2.normal_(0.0, 0.5**0.5, generator=generator)
        self.skip_D.fill_(1.0)
        self.log_dt_D.uniform_(*(math.log(end) for end in self.dt_range), generator=generator)


def hippo_frequencies(n_pairs: int, device: torch.device) -> Tensor:
    """Imaginary parts, one of each conjugate pair, of the eigenvalues of HiPPO-LegS' normal part,
    whose real parts are all -1/2 (2206.11893, section 2.3)."""
    n = torch.arange(2 * n_pairs, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    skew = torch.outer(root, root) / 2
    skew = skew.triu(1) - skew.tril(-1)
    frequencies: Tensor = torch.linalg.eigvalsh(1j * skew)[n_pairs:]
    return frequencies.to(device)


def _kernel(pole_DS: Tensor, C_DS: Tensor, length: int) -> Tensor:
    """2 Re Σ_n C_n exp(pole_n t) for t < length, as one matmul of coarse and fine powers."""
    fine = math.isqrt(max(length - 1, 0)) + 1
    coarse = -(-length // fine)
    t_Q, t_C = (torch.arange(n, device=pole_DS.device) for n in (fine, coarse))
    power_DSQ, power_DSC = ((pole_DS[..., None] * t).exp() for t in (t_Q, fine * t_C))
    kernel_DCQ = 2 * ((C_DS[..., None] * power_DSC).mT @ power_DSQ).real
    return kernel_DCQ.flatten(1)[:, :length]


def _ends(context: Context, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """One where the document goes on that was begun before, and where the last one is."""
    if context.starts_BT is None:
        return (torch.ones_like(x_BTD[..., :1]),) * 2
    runs_BT1 = context.starts_BT.cumsum(1)[..., None]
    return (runs_BT1 == 0).to(x_BTD.dtype), (runs_BT1 == runs_BT1[:, -1:]).to(x_BTD.dtype)


def _later(power_DST: Tensor) -> Tensor:
    """What is left at the end of an input at each position."""
    return F.pad(power_DST[..., :-1], (1, 0), value=1.0).flip(-1)
