"""Linear recurrence whose transition is diagonal plus rank one (RWKV-7, 2503.14456, equation 17):

    S_t = diag(w_t) S_{t-1} + b_t (z_tᵀ S_{t-1}) + k_t v_tᵀ,   y_t = S_tᵀ q_t

A decay per key channel, and at each step one direction z that is read, one b along which what was
read is written back. The delta rule is z = k, b = -(rate) k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.engines.chunks import Chunks


def flops(length: int, n_heads: int, k_width: int, v_width: int) -> int:
    """Decay (1), z S (2), two outer products with their sums (4), read-out (2) per element."""
    return 9 * length * n_heads * k_width * v_width


def naive(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHK: Tensor,
    z_BTHK: Tensor,
    b_BTHK: Tensor,
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
        read_BHV = torch.einsum("bhkv,bhk->bhv", state, z_BTHK[:, t])
        state = log_decay_BTHK[:, t, :, :, None].exp() * state
        state = state + b_BTHK[:, t, :, :, None] * read_BHV[:, :, None, :]
        state = state + k_BTHK[:, t, :, :, None] * v_BTHV[:, t, :, None, :]
        rows.append(torch.einsum("bhk,bhkv->bhv", q_BTHK[:, t], state))
    return torch.stack(rows, 1), state


def chunked(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHK: Tensor,
    z_BTHK: Tensor,
    b_BTHK: Tensor,
    starts_BT: Tensor | None = None,
    state_BHKV: Tensor | None = None,
    chunk: int = 32,
) -> tuple[Tensor, Tensor]:
    """Within a chunk the rows read, u_t = S_{t-1}ᵀ z_t, solve one unit triangular system; between
    chunks one state is handed on.

    Decays enter as products e^{c_t - c_m} e^{c_m - c_s} about the chunk's middle m, which hold in
    float32 while a chunk's log decays sum to more than -160 (RWKV-7's are above -0.61 each).
    """
    B, T, H, V = v_BTHV.shape
    K = k_BTHK.shape[-1]
    chunks = Chunks(T, chunk)
    Q, fold = chunks.size, chunks.fold
    q, k, v, z, b = (fold(x) for x in (q_BTHK, k_BTHK, v_BTHV, z_BTHK, b_BTHK))
    log_decay = fold(log_decay_BTHK)
    decay = log_decay.cumsum(-2)
    middle, end = decay[..., Q // 2, None, :], decay[..., -1:, :]
    seen = torch.ones(Q, Q, dtype=torch.bool, device=q.device).tril()
    first = last = torch.ones((), dtype=torch.bool, device=q.device)
    if starts_BT is not None:
        runs = chunks.runs(starts_BT)
        seen = seen & (runs[..., :, None] == runs[..., None, :])
        first, last = (runs == 0)[..., None], (runs == runs[..., -1:])[..., None]
    strict = seen & ~torch.eye(Q, dtype=torch.bool, device=q.device)
    ahead, behind = (decay - middle).exp(), (middle - decay).exp()
    reads = z * (decay - log_decay - middle).exp()  # from S_{t-1}: not yet decayed by w_t
    queries, keys, writes = q * ahead, k * behind, b * behind

    def between(rows: Tensor, columns: Tensor, mask: Tensor) -> Tensor:
        return (rows @ columns.mT).masked_fill(~mask, 0.0)

    system = torch.eye(Q, device=q.device, dtype=q.dtype) - between(reads, writes, strict)
    from_start = first * middle.exp()
    right = torch.cat([between(reads, keys, strict) @ v, reads * from_start], -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    own, carried = torch.split(solved, [V, K], -1)
    y_own = between(queries, keys, seen) @ v
    through = between(queries, writes, seen)
    queries = queries * from_start
    keys, writes = (x * (last * (end - middle).exp()) for x in (keys, writes))
    added = keys.mT @ v
    across = end.exp() if starts_BT is None else end.exp() * first[..., -1:, :]

    state = v_BTHV.new_zeros(B, H, K, V) if state_BHKV is None else state_BHKV
    parts = (own, carried, y_own, queries, through, across.mT, added, writes.mT)
    rows = []
    for u_c, z_c, y_c, q_c, through_c, kept, added_c, b_c in zip(
        *(x.unbind(1) for x in parts), strict=True
    ):
        read = u_c + z_c @ state
        rows.append(y_c + q_c @ state + through_c @ read)
        state = kept * state + added_c + b_c @ read
    return chunks.unfold(rows), state
