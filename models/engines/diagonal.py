"""Diagonal linear recurrence, real or complex: h_t = a_t h_{t-1} + u_t for every channel (S5,
2208.04933, section 3.2). The fast form runs all chunks of about √T positions side by side and then
hands their ends on, so that it takes 2√T steps of whole-tensor operations and not T.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def flops(length: int, n_channels: int, *, complex_valued: bool = False) -> int:
    """Product and sum (2); 8 if both are complex."""
    return length * n_channels * (8 if complex_valued else 2)


def naive(
    u_BTI: Tensor,
    decay_BTI: Tensor,
    starts_BT: Tensor | None = None,
    state_BI: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step at a time; gives every state and the last."""
    state = torch.zeros_like(u_BTI[:, 0]) if state_BI is None else state_BI
    rows = []
    for t in range(u_BTI.shape[1]):
        if starts_BT is not None:
            state = state.masked_fill(starts_BT[:, t, None], 0.0)
        state = decay_BTI[:, t] * state + u_BTI[:, t]
        rows.append(state)
    return torch.stack(rows, 1), state


def scan(
    u_BTI: Tensor,
    decay_BTI: Tensor,
    starts_BT: Tensor | None = None,
    state_BI: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`naive`, with the gradient by the same recurrence backwards. |a| ≤ 1 keeps it stable."""
    if starts_BT is not None:
        decay_BTI = decay_BTI.masked_fill(starts_BT[..., None], 0.0)
    if state_BI is None:
        state_BI = torch.zeros_like(u_BTI[:, 0])
    h_BTI: Tensor = _Scan.apply(u_BTI, decay_BTI, state_BI)  # type: ignore[no-untyped-call]
    return h_BTI, h_BTI[:, -1]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u_BTI: Tensor, decay_BTI: Tensor, state_BI: Tensor) -> Tensor:
        h_BTI = _run(u_BTI, decay_BTI, state_BI)
        ctx.save_for_backward(decay_BTI, h_BTI, state_BI)
        return h_BTI

    @staticmethod
    def backward(ctx: Any, dh_BTI: Tensor) -> Any:
        """g_t = dh_t + a*_{t+1} g_{t+1}, da_t = g_t h*_{t-1}."""
        decay_BTI, h_BTI, state_BI = ctx.saved_tensors
        after_BTI = F.pad(decay_BTI[:, 1:], (0, 0, 0, 1)).flip(1).conj()
        g_BTI = _run(dh_BTI.flip(1), after_BTI, torch.zeros_like(state_BI)).flip(1)
        before_BTI = torch.cat([state_BI[:, None], h_BTI[:, :-1]], 1)
        return g_BTI, g_BTI * before_BTI.conj(), g_BTI[:, 0] * decay_BTI[:, 0].conj()


def _run(u_BTI: Tensor, decay_BTI: Tensor, state_BI: Tensor) -> Tensor:
    B, T, _ = u_BTI.shape
    Q = max(1, round(math.sqrt(T)))
    h, decay = _by_chunk(u_BTI, Q), _by_chunk(decay_BTI, Q)  # Q B C I
    for i in range(1, Q):
        h[i].addcmul_(decay[i], h[i - 1])
        decay[i].mul_(decay[i - 1])
    ends, kept = h[-1], decay[-1]
    start = torch.empty_like(ends)
    current = state_BI
    for c in range(start.shape[1]):
        start[:, c] = current
        current = torch.addcmul(ends[:, c], kept[:, c], current)
    h.addcmul_(decay, start)
    return h.permute(1, 2, 0, 3).reshape(B, -1, u_BTI.shape[-1])[:, :T]


def _by_chunk(x_BTI: Tensor, Q: int) -> Tensor:
    """(B, T, I) to a new (Q, B, C, I)."""
    B, T, width = x_BTI.shape
    C = -(-T // Q)
    padded = F.pad(x_BTI, (0, 0, 0, C * Q - T))
    return (
        padded.view(B, C, Q, width).permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)
    )
