"""Softmax attention under a mask (Attention Is All You Need, 1706.03762, equation 1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.engines.select import kernel

FLASH_WIDTH = 256
"""The widest head that flash_attn takes; its values are as wide as its keys."""


@dataclass(frozen=True)
class Mask:
    """Which keys a query sees, by their distance d = query - key.

    causal: d ≥ 0. window: |d| < window. stride: d a multiple of it (Sparse Transformer,
    1904.10509), or d < local. n_global: the first keys are seen by all (Longformer, 2004.05150).
    chunk: only keys of the query's own stretch of that many positions (Llama 4).
    """

    causal: bool = True
    window: int | None = None
    stride: int | None = None
    local: int = 1
    n_global: int = 0
    chunk: int | None = None

    def visible(self, query_T: Tensor, key_S: Tensor) -> Tensor:
        """Boolean (T, S) from integer positions, which may be of rows: (B, T), (B, S)."""
        query_T1, key_1S = query_T[..., None], key_S[..., None, :]
        distance = query_T1 - key_1S
        seen = torch.ones_like(distance, dtype=torch.bool)
        if self.window is not None:
            seen &= distance.abs() < self.window
        if self.stride is not None:
            seen &= (distance % self.stride == 0) | (distance.abs() < self.local)
        if self.chunk is not None:
            seen &= query_T1 // self.chunk == key_1S // self.chunk
        if self.n_global:
            seen |= (key_1S < self.n_global) | (query_T1 < self.n_global)
        return seen & (distance >= 0) if self.causal else seen

    def pairs(self, n_queries: int, n_keys: int) -> int:
        """How many (query, key) pairs see each other; queries are the last positions of keys'."""
        if self.is_plain and not self.causal:
            return n_queries * n_keys
        if self == Mask(chunk=self.chunk) and self.chunk and n_queries == n_keys:
            whole, rest = divmod(n_keys, self.chunk)
            return (whole * self.chunk * (self.chunk + 1) + rest * (rest + 1)) // 2
        simple = self.stride is None and not self.n_global and self.chunk is None
        if simple and n_queries == n_keys:
            reach = min(self.window or n_keys, n_keys)
            behind = reach * n_queries - reach * (reach - 1) // 2
            return behind if self.causal else 2 * behind - n_queries
        return int(self.visible(*_positions(n_queries, n_keys, torch.device("cpu"))).sum())

    @property
    def is_plain(self) -> bool:
        """Nothing but causal or full."""
        return self == Mask(self.causal)

    def unseen(self, n_keys: int) -> int:
        """How many of the first keys no later query sees."""
        if self == Mask(window=self.window) and self.window is not None:
            return max(0, n_keys - self.window + 1)
        if self == Mask(chunk=self.chunk) and self.chunk is not None:
            return n_keys // self.chunk * self.chunk
        return 0


@lru_cache(maxsize=32)
def visible(mask: Mask, n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """The mask of queries that are the last of the keys' positions, made once."""
    return mask.visible(*_positions(n_queries, n_keys, device))


def _positions(n_queries: int, n_keys: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of queries that end where the keys end; of a longer decoder's some are negative."""
    return torch.arange(n_keys - n_queries, n_keys, device=device), torch.arange(
        n_keys, device=device
    )


def flops(mask: Mask, n_queries: int, n_keys: int, n_heads: int, k_width: int, v_width: int) -> int:
    """q·k and probabilities·v over the visible pairs."""
    return 2 * mask.pairs(n_queries, n_keys) * n_heads * (k_width + v_width)


def naive(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGV: Tensor,
    mask: Mask,
    *,
    scale: float,
    segments: tuple[Tensor, Tensor] | None = None,
    bias_HTS: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """softmax(cap(scale q·k) + bias over what is visible) v, with every score written out."""
    groups = q_BTHK.shape[2] // k_BSGK.shape[2]
    k_BSHK, v_BSHV = (x.repeat_interleave(groups, 2) for x in (k_BSGK, v_BSGV))
    scores = torch.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias_HTS is not None:
        scores = scores + bias_HTS
    seen = visible(mask, q_BTHK.shape[1], k_BSGK.shape[1], q_BTHK.device)
    if segments is not None:
        seen = seen & same_segment(*segments)
    probabilities = scores.masked_fill(~seen, -torch.inf).softmax(-1, dtype=scores.dtype)
    return torch.einsum("bhts,bshv->bthv", probabilities, v_BSHV)


def attend(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGV: Tensor,
    mask: Mask,
    *,
    scale: float,
    segments: tuple[Tensor, Tensor] | None = None,
    bias_HTS: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """`naive` by the fastest form that fits: flash_attn on CUDA, else SDPA, in blocks for a window
    shorter than the row. Segments number the documents of queries and of keys in runs."""
    of_rows = segments is None or segments[0] is segments[1]
    if bias_HTS is None and of_rows and _flash_takes(q_BTHK, k_BSGK, v_BSGV, mask):
        segments_BT = segments and segments[0]
        return _flash(q_BTHK, k_BSGK, v_BSGV, mask, scale, softcap or 0.0, segments_BT)
    if softcap is not None:
        return naive(
            q_BTHK, k_BSGK, v_BSGV, mask,
            scale=scale, segments=segments, bias_HTS=bias_HTS, softcap=softcap,
        )  # fmt: skip
    n_queries, n_keys = q_BTHK.shape[1], k_BSGK.shape[1]
    window = mask.window
    blockwise = (
        window is not None
        and mask == Mask(window=window)
        and bias_HTS is None
        and 2 * window <= n_queries == n_keys
    )
    if blockwise:
        assert window is not None
        return _blockwise(q_BTHK, k_BSGK, v_BSGV, window, scale, segments)
    chunk, plain = mask.chunk, segments is None and bias_HTS is None
    if plain and chunk and mask == Mask(chunk=chunk) and chunk < n_queries == n_keys:
        return _chunkwise(q_BTHK, k_BSGK, v_BSGV, chunk, scale)
    full = mask.is_plain and (not mask.causal or n_queries in (n_keys, 1))
    if full and plain:
        return _sdpa(q_BTHK, k_BSGK, v_BSGV, None, scale, causal=mask.causal and n_queries > 1)
    seen = visible(mask, n_queries, n_keys, q_BTHK.device)
    if segments is not None:
        seen = seen & same_segment(*segments)
    if bias_HTS is not None:
        seen = bias_HTS.masked_fill(~seen, -torch.inf)
    return _sdpa(q_BTHK, k_BSGK, v_BSGV, seen, scale)


def _flash_takes(q_BTHK: Tensor, k_BSGK: Tensor, v_BSGV: Tensor, mask: Mask) -> bool:
    half = all(x.dtype in (torch.bfloat16, torch.float16) for x in (q_BTHK, k_BSGK, v_BSGV))
    shaped = v_BSGV.shape[-1] == q_BTHK.shape[-1] <= FLASH_WIDTH
    masked = mask == Mask(mask.causal, mask.window)
    return q_BTHK.is_cuda and half and shaped and masked and kernel("flash_attn") is not None


def _flash(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGV: Tensor,
    mask: Mask,
    scale: float,
    softcap: float,
    segments_BT: Tensor | None,
) -> Tensor:
    flash, reach = kernel("flash_attn"), -1 if mask.window is None else mask.window - 1
    assert flash is not None
    options = {
        "softmax_scale": scale,
        "causal": mask.causal,
        "window_size": (reach, 0 if mask.causal else reach),
        "softcap": softcap,
    }
    if segments_BT is None:
        y_BTHV: Tensor = flash.flash_attn_func(q_BTHK, k_BSGK, v_BSGV, **options)
        return y_BTHV
    ends, longest = _ends(segments_BT), segments_BT.shape[1]
    rows = (x.flatten(0, 1) for x in (q_BTHK, k_BSGK, v_BSGV))
    y_NHV: Tensor = flash.flash_attn_varlen_func(*rows, ends, ends, longest, longest, **options)
    return y_NHV.view(*q_BTHK.shape[:-1], -1)


@lru_cache(maxsize=8)
def _ends(segments_BT: Tensor) -> Tensor:
    """Where the documents of all rows, one after the other, begin and end; found once for the
    layers of a pass, since the host waits for it. Some of them may see other pieces."""
    begins_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    begins_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    starts_N = begins_BT.flatten().nonzero()[:, 0]
    return F.pad(starts_N, (0, 1), value=begins_BT.numel()).to(torch.int32)


def same_segment(query_BT: Tensor, key_BS: Tensor) -> Tensor:
    """Boolean (B, 1, T, S): both in one document."""
    return (query_BT[:, :, None] == key_BS[:, None, :])[:, None]


def _sdpa(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGV: Tensor,
    seen: Tensor | None,
    scale: float,
    causal: bool = False,
) -> Tensor:
    short = q_BTHK.shape[-1] - v_BSGV.shape[-1]
    if short > 0:  # the fused kernels want values as wide as keys
        y_BTHK = _sdpa(q_BTHK, k_BSGK, F.pad(v_BSGV, (0, short)), seen, scale, causal)
        return y_BTHK[..., :-short]
    is_fused = short == 0 and (seen is None or not seen.requires_grad)
    if q_BTHK.device.type == "meta" and is_fused:
        return _sdpa_on_meta(q_BTHK, k_BSGK, v_BSGV, seen, scale, causal)
    groups = q_BTHK.shape[2] // k_BSGK.shape[2]
    if groups > 1 and seen is not None and q_BTHK.is_cuda:  # no fused kernel there takes both
        k_BSGK, v_BSGV, groups = (*(x.repeat_interleave(groups, 2) for x in (k_BSGK, v_BSGV)), 1)
    y_BHTV: Tensor = F.scaled_dot_product_attention(
        q_BTHK.transpose(1, 2),
        k_BSGK.transpose(1, 2),
        v_BSGV.transpose(1, 2),
        attn_mask=seen,
        is_causal=causal,
        scale=scale,
        enable_gqa=groups > 1,
    )
    return y_BHTV.transpose(1, 2)


def _chunkwise(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, chunk: int, scale: float) -> Tensor:
    """Each chunk a row of its own: linear in T."""
    B, T = q_BTHK.shape[:2]
    n_chunks = -(-T // chunk)

    def rows(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, 0, 0, n_chunks * chunk - T))
        return x.reshape(B * n_chunks, chunk, *x.shape[2:])

    y = _sdpa(rows(q_BTHK), rows(k_BTGK), rows(v_BTGV), None, scale, causal=True)
    return y.reshape(B, n_chunks * chunk, *y.shape[2:])[:, :T]


def _sdpa_on_meta(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGV: Tensor,
    seen: Tensor | None,
    scale: float,
    causal: bool,
) -> Tensor:
    """The fused form, which keeps no scores for the backward pass: on the meta device torch takes
    the plain one, and `models.memory` would count them."""
    groups = q_BTHK.shape[2] // k_BSGK.shape[2]
    k_BSHK, v_BSHV = (
        x if groups == 1 else x.repeat_interleave(groups, 2) for x in (k_BSGK, v_BSGV)
    )
    if seen is not None and seen.dtype is torch.bool:
        seen = torch.zeros_like(seen, dtype=q_BTHK.dtype)
    y_BHTV: Tensor
    y_BHTV, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *(x.transpose(1, 2) for x in (q_BTHK, k_BSHK, v_BSHV)),
        0.0,
        causal,
        attn_mask=seen,
        scale=scale,
    )
    return y_BHTV.transpose(1, 2)


def _blockwise(
    q_BTHK: Tensor,
    k_BTGK: Tensor,
    v_BTGV: Tensor,
    window: int,
    scale: float,
    segments: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Blocks of `window` queries against their own and the block before: linear in T."""
    B, T = q_BTHK.shape[:2]
    n_blocks = -(-T // window)
    pad = n_blocks * window - T
    segments_BT = segments[0] if segments else q_BTHK.new_zeros((B, T), dtype=torch.long)
    # Block 0 has nothing before it and the last block may be short: no segment is numbered -1.
    own_BT = F.pad(segments_BT, (0, pad), value=-2)
    queries = F.pad(q_BTHK, (0, 0, 0, 0, 0, pad)).reshape(B * n_blocks, window, *q_BTHK.shape[2:])

    def with_previous(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, 0, window, pad)).unfold(1, 2 * window, window)
        return x.movedim(-1, 2).reshape(B * n_blocks, 2 * window, *x.shape[2:-1])

    behind = F.pad(own_BT, (window, 0), value=-1).unfold(1, 2 * window, window)
    distance = torch.arange(window, device=own_BT.device)[:, None] + window
    distance = distance - torch.arange(2 * window, device=own_BT.device)
    near = (distance >= 0) & (distance < window)
    seen = near & (own_BT.view(B, n_blocks, window, 1) == behind[:, :, None])
    seen = seen.view(B * n_blocks, 1, window, 2 * window)
    y = _sdpa(queries, with_previous(k_BTGK), with_previous(v_BTGV), seen, scale)
    return y.reshape(B, n_blocks * window, *y.shape[2:])[:, :T]
