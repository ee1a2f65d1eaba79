"""Linear recurrence with decay: S_t = a_t S_{t-1} + k_t v_tᵀ, y_t = S_tᵀ q_t.

With a scalar a_t per head it is the state space duality of Mamba-2 (2405.21060, section 6), with a
fixed one RetNet's retention (2307.08621), with a = 1 linear attention (2006.16236).

`apart` n: positions come in runs of n which are one point in time (the decay stands at the first);
a query reads a_t S_{t-1}, what was there before its own run (Mamba-3's inputs of rank n).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def flops(length: int, n_heads: int, k_width: int, v_width: int) -> int:
    """Decay (1), outer product (1), sum (1) and read-out (2) per element of the state."""
    return 5 * length * n_heads * k_width * v_width


def naive(
    q_BTGK: Tensor,
    k_BTGK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor,
    starts_BT: Tensor | None = None,
    state_BHKV: Tensor | None = None,
    apart: int = 0,
) -> tuple[Tensor, Tensor]:
    """One step at a time. Queries and keys may be shared by groups of heads (G divides H)."""
    B, T, H, V = v_BTHV.shape
    per_group = H // q_BTGK.shape[2]
    q_BTHK, k_BTHK = (x.repeat_interleave(per_group, 2) for x in (q_BTGK, k_BTGK))
    state = v_BTHV.new_zeros(B, H, q_BTGK.shape[-1], V) if state_BHKV is None else state_BHKV
    rows = []
    for t in range(T):
        if starts_BT is not None:
            state = state.masked_fill(starts_BT[:, t, None, None, None], 0.0)
        outer = k_BTHK[:, t, :, :, None] * v_BTHV[:, t, :, None, :]
        state = log_decay_BTH[:, t].exp()[..., None, None] * state
        if apart and t % apart == 0:
            before = state
        state = state + outer
        rows.append(torch.einsum("bhk,bhkv->bhv", q_BTHK[:, t], before if apart else state))
    return torch.stack(rows, 1), state


def chunked(
    q_BTGK: Tensor,
    k_BTGK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor,
    starts_BT: Tensor | None = None,
    state_BHKV: Tensor | None = None,
    chunk: int = 64,
    apart: int = 0,
) -> tuple[Tensor, Tensor]:
    """Matmuls inside chunks of Q positions, one state handed from chunk to chunk.

    Only differences of cumulated log decays at most 0 are exponentiated, so nothing overflows.
    """
    B, T, H, V = v_BTHV.shape
    G, K = q_BTGK.shape[2:]
    Q = min(chunk * max(apart, 1), T)
    C = -(-T // Q)
    pad = C * Q - T
    if pad:  # padded positions have no key and no decay: they leave the state alone
        q_BTGK, k_BTGK, v_BTHV = (F.pad(x, (0, 0, 0, 0, 0, pad)) for x in (q_BTGK, k_BTGK, v_BTHV))
        log_decay_BTH = F.pad(log_decay_BTH, (0, 0, 0, pad))
    q, k = (x.reshape(B, C, Q, G, K).transpose(2, 3) for x in (q_BTGK, k_BTGK))  # B C G Q K
    v = v_BTHV.reshape(B, C, Q, G, H // G, V).transpose(2, 3)  # B C G Q h V
    decay = log_decay_BTH.reshape(B, C, Q, G, H // G).permute(0, 1, 3, 4, 2).cumsum(-1)
    causal = _causal(Q, q.device, apart)
    between = decay[..., :, None] - decay[..., None, :]  # from source (last) to target
    runs = None
    if starts_BT is not None:
        runs = F.pad(starts_BT, (0, pad)).view(B, C, 1, 1, Q).cumsum(-1)
        causal = causal & (runs[..., :, None] == runs[..., None, :])
    weight = between.masked_fill_(~causal, -torch.inf).exp_()
    y = ((weight * (q @ k.mT)[:, :, :, None]) @ v.transpose(3, 4)).transpose(3, 4)

    to_end, from_start, across = decay[..., -1:] - decay, decay, decay[..., -1]
    if runs is not None:
        to_end = to_end.masked_fill(runs != runs[..., -1:], -torch.inf)
        from_start = from_start.masked_fill(runs != 0, -torch.inf)
        across = across.masked_fill(runs[..., -1] != 0, -torch.inf)
    added = k.mT @ (to_end.exp().mT[..., None] * v).flatten(-2)  # B C G K (h V): one matmul
    added = added.view(B, C, G, K, H // G, V)
    state = None
    if state_BHKV is not None:
        state = state_BHKV.view(B, G, H // G, K, V).transpose(2, 3)
    if C > 1 or state is not None:
        before, state = _hand_on(added, across.exp()[:, :, :, None, :, None], state)
        y = y + from_start.exp().mT[..., None] * (q @ before.flatten(-2)).view_as(v)
    else:
        state = added[:, 0]
    y_BTHV = y.transpose(2, 3).reshape(B, C * Q, H, V)[:, :T]
    return y_BTHV, state.transpose(2, 3).reshape(B, H, K, V)


def _hand_on(added: Tensor, factor: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """States before every chunk, and the last: one small update per chunk."""
    current = torch.zeros_like(added[:, 0]) if state is None else state
    before = []
    for addition, kept in zip(added.unbind(1), factor.unbind(1), strict=True):
        before.append(current)
        current = torch.addcmul(addition, kept, current)
    return torch.stack(before, 1), current


def _causal(length: int, device: torch.device, apart: int) -> Tensor:
    time = torch.arange(length, device=device) // max(apart, 1)
    return time[:, None] > time if apart else time[:, None] >= time


def recur(
    q_BTGK: Tensor,
    k_BTGK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor,
    starts_BT: Tensor | None = None,
    state_BHKV: Tensor | None = None,
    chunk: int = 64,
    apart: int = 0,
) -> tuple[Tensor, Tensor]:
    """`naive` by the fastest form for the device; decays and states in float32 at least."""
    dtype = torch.promote_types(v_BTHV.dtype, torch.float32)
    q, k, v, log_decay = (t.to(dtype) for t in (q_BTGK, k_BTGK, v_BTHV, log_decay_BTH))
    y_BTHV, last = chunked(q, k, v, log_decay, starts_BT, state_BHKV, chunk, apart)
    return y_BTHV.to(v_BTHV.dtype), last
