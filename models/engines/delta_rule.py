"""Gated delta rule (Gated DeltaNet, 2412.06464, equation 10):

    S_t = a_t (I - b_t k_t k_tᵀ) S_{t-1} + b_t k_t v_tᵀ,   y_t = S_tᵀ q_t

The state forgets by a_t and replaces what it held under the key k_t, by the fraction b_t.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.engines.chunks import Chunks


def flops(length: int, n_heads: int, k_width: int, v_width: int) -> int:
    """Decay (1), S k (2), outer product and sum (2), read-out (2) per element of the state; the
    difference from v and its weight (2) per value."""
    return length * n_heads * v_width * (7 * k_width + 2)


def naive(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor,
    rate_BTH: Tensor,
    starts_BT: Tensor | None = None,
    state_BHKV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step at a time; gives y_BTHV and the last state."""
    B, T, H, V = v_BTHV.shape
    state = v_BTHV.new_zeros(B, H, k_BTHK.shape[-1], V) if state_BHKV is None else state_BHKV
    rows = []
    for t in range(T):
        if starts_BT is not None:
            state = state.masked_fill(starts_BT[:, t, None, None, None], 0.0)
        state = log_decay_BTH[:, t].exp()[..., None, None] * state
        held_BHV = torch.einsum("bhkv,bhk->bhv", state, k_BTHK[:, t])
        change_BHV = rate_BTH[:, t, :, None] * (v_BTHV[:, t] - held_BHV)
        state = state + k_BTHK[:, t, :, :, None] * change_BHV[:, :, None, :]
        rows.append(torch.einsum("bhk,bhkv->bhv", q_BTHK[:, t], state))
    return torch.stack(rows, 1), state


def chunked(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor,
    rate_BTH: Tensor,
    starts_BT: Tensor | None = None,
    state_BHKV: Tensor | None = None,
    chunk: int = 32,
) -> tuple[Tensor, Tensor]:
    """Within a chunk the changes solve one unit triangular system (2412.06464, section 3.3);
    between chunks one state is handed on."""
    B, T, H, V = v_BTHV.shape
    K = k_BTHK.shape[-1]
    chunks = Chunks(T, chunk)
    Q, fold = chunks.size, chunks.fold
    q, k, v = fold(q_BTHK), fold(k_BTHK), fold(v_BTHV)
    decay, rate = fold(log_decay_BTH).cumsum(-1), fold(rate_BTH)[..., None]
    seen = torch.ones(Q, Q, dtype=torch.bool, device=q.device).tril()
    to_end, from_start, across = decay[..., -1:] - decay, decay, decay[..., -1]
    if starts_BT is not None:
        runs = chunks.runs(starts_BT)
        seen = seen & (runs[..., :, None] == runs[..., None, :])
        to_end = to_end.masked_fill(runs != runs[..., -1:], -torch.inf)
        from_start = from_start.masked_fill(runs != 0, -torch.inf)
        across = across.masked_fill(runs[..., -1] != 0, -torch.inf)
    weight = (decay[..., :, None] - decay[..., None, :]).masked_fill_(~seen, -torch.inf).exp_()
    system = (rate * (k @ k.mT) * weight).tril(-1) + torch.eye(Q, device=q.device, dtype=q.dtype)
    right = torch.cat([rate * v, rate * from_start.exp()[..., None] * k], -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    own, carried = torch.split(solved, [V, K], -1)

    state = v_BTHV.new_zeros(B, H, K, V) if state_BHKV is None else state_BHKV
    scores = (q @ k.mT) * weight
    q, k = q * from_start.exp()[..., None], k * to_end.exp()[..., None]
    factor = across.exp()[..., None, None]
    parts = (own, carried, q, k.mT, scores, factor)
    rows = []
    for v_c, z_c, q_c, k_c, scores_c, kept in zip(*(x.unbind(1) for x in parts), strict=True):
        change = v_c - z_c @ state
        rows.append(q_c @ state + scores_c @ change)
        state = kept * state + k_c @ change
    return chunks.unfold(rows), state
