"""How every mixer with a softmax comes to its engine: with the documents of a pass, and with other
ranks where rows are cut into slices."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from models.context import Context
from models.engines import ring, softmax
from models.engines.ring import Bias, Ring
from models.engines.softmax import Mask


def attend(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGV: Tensor,
    mask: Mask,
    context: Context,
    *,
    scale: float,
    bias: Bias | None = None,
    softcap: float | None = None,
) -> Tensor:
    """`engines.softmax.attend` over whole rows, whatever part of them this rank holds."""
    mask, bias = _per_document(mask, bias, q_BTHK, context)
    mask, segments_BT = _pieces(mask, context)
    slices = context.slices
    if slices is not None and slices.mode == "ring":
        job = Ring(slices, mask, scale, segments_BT, bias, softcap)
        return ring.attend(q_BTHK, k_BSGK, v_BSGV, job)
    heads = slice(None)
    if slices is not None:
        heads = slices.own_heads(q_BTHK.shape[2])
        q_BTHK, k_BSGK, v_BSGV = (slices.to_heads(x) for x in (q_BTHK, k_BSGK, v_BSGV))
    n_queries, n_keys = q_BTHK.shape[1], k_BSGK.shape[1]
    y_BTHV = softmax.attend(
        q_BTHK,
        k_BSGK,
        v_BSGV,
        mask,
        scale=scale,
        segments=None if segments_BT is None else (segments_BT, segments_BT),
        bias_HTS=bias and bias(heads, range(n_keys - n_queries, n_keys), range(n_keys)),
        softcap=softcap,
    )
    return y_BTHV if slices is None else slices.to_slices(y_BTHV)


def _per_document(
    mask: Mask, bias: Bias | None, q_BTHK: Tensor, context: Context
) -> tuple[Mask, Bias | None]:
    """Of packed documents each has global positions of its own: what they see is a bias then."""
    at_BT = context.whole("positions_BT")
    if not mask.n_global or at_BT is None:
        return mask, bias
    n_heads, dtype = q_BTHK.shape[2], q_BTHK.dtype

    def seen(heads: slice, queries: range, keys: range) -> Tensor:
        query_BT, key_BS = (at_BT[:, part.start : part.stop] for part in (queries, keys))
        hidden = ~mask.visible(query_BT, key_BS)[:, None]
        nothing = torch.zeros(n_heads, 1, 1, dtype=dtype, device=hidden.device)[heads]
        given = nothing if bias is None else bias(heads, queries, keys)
        return given.masked_fill(hidden, -torch.inf)

    return Mask(mask.causal), seen


def _pieces(mask: Mask, context: Context) -> tuple[Mask, Tensor | None]:
    """The mask and the segments of whole rows: the chunks of a packed document start with it."""
    segments_BT, at_BT = context.whole("segments_BT"), context.whole("positions_BT")
    chunk = mask.chunk
    if chunk is None or segments_BT is None or at_BT is None:
        return mask, segments_BT

    def made() -> Tensor:
        return segments_BT.long() * segments_BT.shape[1] + at_BT // chunk

    return replace(mask, chunk=None), context.once(("pieces", chunk), made)
