"""Exponential gates kept in range: C_t = f_t C_{t-1} + i_t u_t with i = exp(anything), f ≤ 1.

Any m_t may be taken off the exponents, C_t = exp(m_t) C̃_t, as long as the same m is used
throughout; the running maximum m_t = max(log f_t + m_{t-1}, log i_t) keeps every factor at most 1
(xLSTM, 2405.04517, equation 15; RWKV-4, 2305.13048, appendix D).
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def running_max(
    log_decay_BTI: Tensor,
    log_input_BTI: Tensor,
    starts_BT: Tensor | None = None,
    before_BI: Tensor | None = None,
) -> Tensor:
    """m_BTI, by composing log2 T times neighbouring pieces twice as long; a document starts anew,
    and `before` is m before the first position."""
    m, decay = log_input_BTI.clone(), log_decay_BTI.expand_as(log_input_BTI).clone()
    if starts_BT is not None:
        decay = decay.masked_fill_(starts_BT[..., None], -torch.inf)
    if before_BI is not None:
        m[:, 0] = torch.maximum(m[:, 0], before_BI + decay[:, 0])
    step = 1
    while step < m.shape[1]:
        m[:, step:] = torch.maximum(m[:, step:], m[:, :-step] + decay[:, step:])
        decay[:, step:] = decay[:, step:] + decay[:, :-step]
        step *= 2
    return m


def stabilized(
    log_decay_BTI: Tensor,
    log_input_BTI: Tensor,
    starts_BT: Tensor | None = None,
    before_BI: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logs of the factors of C̃_t, log f_t + m_{t-1} - m_t and log i_t - m_t, and m itself, which
    carries no gradient since what is computed does not depend on it."""
    m = running_max(log_decay_BTI, log_input_BTI, starts_BT, before_BI)
    first = m[:, :1] if before_BI is None else before_BI[:, None]
    log_decay_BTI = log_decay_BTI + torch.cat([first, m[:, :-1]], 1) - m
    if starts_BT is not None:  # nothing is left there for a factor to meet
        log_decay_BTI = log_decay_BTI.masked_fill(starts_BT[..., None], 0.0)
    return log_decay_BTI, log_input_BTI - m, m
