"""xLSTM's scalar memory (sLSTM; 2405.04517, section 2.2), one step after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branch import Branch, Frame
from models.context import Context
from models.engines import conv
from models.limits import split_heads
from models.linear import Linear
from models.mixers.short_conv import ShortConv

Cell = tuple[Tensor, Tensor, Tensor, Tensor]


class Slstm(Branch, name="slstm"):
    """norm(h) by head, h_t = σ(o) c_t / n_t with

        c_t = f_t c_{t-1} + i_t tanh(z),   n_t = f_t n_{t-1} + i_t,   f = σ(·), i = exp(·)

    and z, i, f, o linear in the input and, within a head, in h_{t-1} (equations 8 to 17). i and f
    see the input after a short convolution and silu (figure 9). Gates are matrices of the whole
    width here, the paper's of a head. c and n are kept times e^{-m}, m_t = max(log f + m, log i).
    """

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int | None = None,
        head_width: int | None = None,
        n_taps: int = 4,
    ) -> None:
        super().__init__()
        D = frame.width
        self.n_heads, self.head_width = split_heads(D, n_heads, head_width)
        self.eps = frame.norm_eps
        self.conv = ShortConv(D, n_taps)
        self.plain, self.gates = Linear(D, 2 * D, bias=True), Linear(D, 2 * D, bias=True)
        self.again_HKL = nn.Parameter(
            torch.empty(self.n_heads, self.head_width, 4 * self.head_width)
        )
        self.norm_D = nn.Parameter(torch.empty(D))

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """Mix positions."""
        B, T, D = x_BTD.shape
        gates = self.gates(F.silu(self.conv(x_BTD, context)))
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        shape = (B, T, 4, self.n_heads, self.head_width)
        inputs = torch.cat([self.plain(x_BTD), gates], -1).to(wide).view(shape)
        inputs = inputs.permute(1, 3, 0, 2, 4).flatten(3)  # T H B 4K: z, o, i, f
        state = context.state
        cell = self._cell(state, inputs[0])
        again_HKL, rows = self.again_HKL.to(wide), []
        for t in range(T):
            if context.starts_BT is not None:
                start = context.starts_BT[:, t, None]
                h, c, n, m = (x.masked_fill(start, 0.0) for x in cell)
                cell = h, c, n, m.masked_fill(start, -torch.inf)
            cell = _step(torch.baddbmm(inputs[t], cell[0], again_HKL), cell)
            rows.append(cell[0])
        if state is not None:
            state.update(zip("hcnm", (x.transpose(0, 1) for x in cell), strict=True))
        y = torch.stack(rows).permute(2, 0, 1, 3)  # B T H K
        normed = F.layer_norm(y, (self.head_width,), eps=self.eps).to(x_BTD.dtype)
        return normed.reshape(B, T, D) * self.norm_D

    def _cell(self, state: dict[str, Tensor] | None, input_HBL: Tensor) -> Cell:
        if state and "h" in state:
            h, c, n, m = (state[name].transpose(0, 1) for name in "hcnm")
            return h, c, n, m
        zero = input_HBL.new_zeros(*input_HBL.shape[:2], self.head_width)
        return zero, zero, zero, torch.full_like(zero, -torch.inf)

    def matrices(self) -> Iterator[tuple[str, nn.Parameter, int]]:
        """Those from h."""
        yield "again_HKL", self.again_HKL, self.head_width

    def mixing_flops(self, length: int) -> int:
        """The convolution, the matrices from h, and c, n and h (3, 2, 2) per channel."""
        width = self.n_heads * self.head_width
        cell = 2 * self.again_HKL.numel() + 7 * width
        return conv.flops(length, self.conv.n_taps, width) + length * cell

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """No recurrence at first, f = σ(3 … 6) over each head's channels."""
        assert self.gates.bias is not None
        forget = torch.linspace(3.0, 6.0, self.head_width, device=self.norm_D.device)
        self.gates.bias[len(self.norm_D) :] = forget.repeat(self.n_heads)
        self.again_HKL.zero_()
        self.norm_D.fill_(1.0)
        self.conv.init_special(generator)


def _step(inputs_HBL: Tensor, cell: Cell) -> Cell:
    """h, c, n and m of a position."""
    _, c, n, m_before = cell
    z, o, log_i, forget = inputs_HBL.chunk(4, -1)
    log_f = F.logsigmoid(forget)
    m = torch.maximum(log_f + m_before, log_i).detach()
    f, i = (log_f + m_before - m).exp(), (log_i - m).exp()
    c, n = f * c + i * z.tanh(), f * n + i
    return o.sigmoid() * c / n, c, n, m
