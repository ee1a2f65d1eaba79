"""RWKV-4's weighted average (2305.13048, equation 16), for every channel:

    wkv_t = (a_{t-1} + e^{u + k_t} v_t) / (b_{t-1} + e^{u + k_t})
    a_t = e^{-w} a_{t-1} + e^{k_t} v_t,   b_t = e^{-w} b_{t-1} + e^{k_t}

States are kept as (a, b) e^{-m} and m, so that no exponential overflows (`engines.gates`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.engines import diagonal, gates

States = tuple[Tensor, Tensor, Tensor]


def flops(length: int, n_channels: int) -> int:
    """Average: 2, 1 and the division (1); states: 3 and 2."""
    return 9 * length * n_channels


def naive(
    k_BTI: Tensor,
    v_BTI: Tensor,
    decay_I: Tensor,
    bonus_I: Tensor,
    starts_BT: Tensor | None = None,
    states: States | None = None,
) -> tuple[Tensor, States]:
    """One step at a time; `decay` is w > 0, `bonus` u. Gives wkv_BTI and (a, b, m)."""
    if states is None:
        states = _nothing(k_BTI)
    a, b, m = states
    rows = []
    for k, v, start in zip(
        k_BTI.unbind(1), v_BTI.unbind(1), _starts(starts_BT, k_BTI), strict=True
    ):
        a, b, m = (x.masked_fill(start, y) for x, y in ((a, 0.0), (b, 0.0), (m, -torch.inf)))
        top = torch.maximum(m, bonus_I + k).detach()
        old, new = (m - top).exp(), (bonus_I + k - top).exp()
        rows.append((old * a + new * v) / (old * b + new))
        top = torch.maximum(m - decay_I, k).detach()
        old, new = (m - decay_I - top).exp(), (k - top).exp()
        a, b, m = old * a + new * v, old * b + new, top
    return torch.stack(rows, 1), (a, b, m)


def chunked(
    k_BTI: Tensor,
    v_BTI: Tensor,
    decay_I: Tensor,
    bonus_I: Tensor,
    starts_BT: Tensor | None = None,
    states: States | None = None,
) -> tuple[Tensor, States]:
    """`naive` as one diagonal recurrence of a and b side by side."""
    a, b, before = _nothing(k_BTI) if states is None else states
    log_decay, log_input, m = gates.stabilized(
        -decay_I.expand_as(k_BTI), k_BTI, starts_BT, None if states is None else before
    )
    factor, new = log_decay.exp(), log_input.exp()
    state = torch.cat([a, b], -1)
    h, last = diagonal.scan(
        torch.cat([new * v_BTI, new], -1), torch.cat([factor, factor], -1), starts_BT, state
    )
    previous = torch.cat([state[:, None], h[:, :-1]], 1)
    m_before = torch.cat([before[:, None], m[:, :-1]], 1)
    if starts_BT is not None:
        m_before = m_before.masked_fill(starts_BT[..., None], -torch.inf)
    current = bonus_I + k_BTI
    top = torch.maximum(m_before, current).detach()
    old, new = (m_before - top).exp(), (current - top).exp()
    a_before, b_before = previous.chunk(2, -1)
    y_BTI = (old * a_before + new * v_BTI) / (old * b_before + new)
    a, b = last.chunk(2, -1)
    return y_BTI, (a, b, m[:, -1])


def _nothing(k_BTI: Tensor) -> States:
    zero = torch.zeros_like(k_BTI[:, 0])
    return zero, zero, torch.full_like(zero, -torch.inf)


def _starts(starts_BT: Tensor | None, k_BTI: Tensor) -> list[Tensor]:
    if starts_BT is None:
        starts_BT = k_BTI.new_zeros(k_BTI.shape[:2], dtype=torch.bool)
    return list(starts_BT[..., None].unbind(1))
