"""Mamba in heads that choose each for itself (Zamba's code, 2405.16712)."""

from __future__ import annotations

from torch import nn

from models.branch import Frame
from models.limits import scans
from models.linear import Linear
from models.mixers.mamba import Mamba


class MambaHeads(Mamba, name="mamba_heads"):
    """`mamba` whose channels fall into n_heads, each with its own Δ, B and C, linear in its own
    channels; the other options are `mamba`'s."""

    derived = ("dt_min", "dt_max")

    def __init__(
        self,
        frame: Frame,
        *,
        n_heads: int = 2,
        n_states: int = 16,
        expansion: float = 2.0,
        n_taps: int = 4,
        dt_rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__(
            frame,
            n_states=n_states,
            expansion=expansion,
            n_taps=n_taps,
            dt_rank=dt_rank,
            bias=bias,
            conv_bias=conv_bias,
            dt_min=dt_min,
            dt_max=dt_max,
        )
        scans(frame.width, expansion, n_heads)
        self.n_heads, self.head_width = n_heads, self.inner // n_heads
        del self.select, self.dt
        n_out = self.dt_rank + 2 * n_states
        self.selects = nn.ModuleList(Linear(self.head_width, n_out) for _ in range(n_heads))
        self.dts = nn.ModuleList(Linear(self.dt_rank, self.head_width) for _ in range(n_heads))

    def _maps(self) -> list[tuple[slice, Linear, Linear]]:
        found = []
        for h, (select, dt) in enumerate(zip(self.selects, self.dts, strict=True)):
            assert isinstance(select, Linear)
            assert isinstance(dt, Linear)
            found.append((slice(h * self.head_width, (h + 1) * self.head_width), select, dt))
        return found
