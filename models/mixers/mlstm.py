"""xLSTM's matrix memory (mLSTM; 2405.04517, section 2.3) in the layer of xLSTM 7B (2503.13427)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import gates, linear_recurrence
from models.limits import split_heads
from models.linear import Linear

EPS = 1e-6


class Mlstm(Branch, name="mlstm"):
    """out(σ(o) · norm(h)), h_t = C_tᵀ q_t / max(|n_tᵀ q_t|, 1) with

        C_t = f_t C_{t-1} + i_t k_t v_tᵀ,   n_t = f_t n_{t-1} + i_t k_t,   f = σ(·), i = exp(·)

    (equations 19 to 27). The state is kept as C e^{-m} (`engines.gates`) and n as one more column
    of it. head_width: of values; k_width: of queries and keys, by default half of it. gate_softcap:
    gates pass cap·tanh(g/cap) (2503.13427, section 2.2).
    """

    derived = ("chunk",)

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int | None = None,
        head_width: int | None = None,
        k_width: int | None = None,
        gate_softcap: float | None = 15.0,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        self.n_heads, self.head_width = split_heads(frame.width, n_heads, head_width)
        self.k_width = k_width or max(1, self.head_width // 2)
        self.gate_softcap, self.chunk, self.eps = gate_softcap, chunk, frame.norm_eps
        H, K, V = self.n_heads, self.k_width, self.head_width
        self.into = Linear(frame.width, H * (2 * K + 2 * V))
        self.gates = Linear(frame.width, 2 * H, bias=True, role="zero")
        self.norm_I = nn.Parameter(torch.empty(H * V))
        self.out = Linear(H * V, frame.width, role="out")

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        B, T = x_BTD.shape[:2]
        H, K, V = self.n_heads, self.k_width, self.head_width
        q, k, v, o = torch.split(self.into(x_BTD), [H * K, H * K, H * V, H * V], -1)
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        preact = self.gates(x_BTD).to(wide)
        if self.gate_softcap is not None:
            preact = self.gate_softcap * torch.tanh(preact / self.gate_softcap)
        log_i_BTH, forget_BTH = preact.chunk(2, -1)
        state = context.state
        log_f, log_i, m = gates.stabilized(
            F.logsigmoid(forget_BTH),
            log_i_BTH,
            context.starts_BT,
            state.get("m") if state else None,
        )
        q, k, v = (x.to(wide).view(B, T, H, -1) for x in (q, k, v))
        y, last = linear_recurrence.recur(
            q * K**-0.5,
            k * log_i.exp()[..., None],
            F.pad(v, (0, 1), value=1.0),
            log_f,
            context.starts_BT,
            state.get("memory") if state else None,
            chunk=self.chunk,
        )
        if state is not None:
            state.update(memory=last, m=m[:, -1])
        bound = torch.maximum(y[..., -1].abs(), (-m).exp())[..., None]
        normed = F.layer_norm(y[..., :-1] / (bound + EPS), (V,), eps=self.eps).to(x_BTD.dtype)
        return self.out(o.sigmoid() * (normed.flatten(2) * self.norm_I))

    def mixing_flops(self, length: int) -> int:
        """The recurrence, with n as a column more."""
        return linear_recurrence.flops(length, self.n_heads, self.k_width, self.head_width + 1)

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """Gates do not depend on the input at first: i = e^{-10}, f = σ(3 … 6) over the heads
        (2503.13427, section 3)."""
        H = self.n_heads
        assert self.gates.bias is not None
        self.gates.bias[:H] = -10.0
        self.gates.bias[H:] = torch.linspace(3.0, 6.0, H, device=self.norm_I.device)
        self.norm_I.fill_(1.0)
