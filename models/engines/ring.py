"""Ring attention (2310.01889): softmax attention of rows cut into slices, for any number of heads.

Keys and values go round the ring of ranks; each rank folds the block that it has into a running
softmax of its own queries (2112.05682, section 2) while the next block is under way. The backward
pass sends them round once more, and their gradients with them. What is written out of the scores at
any time is of `BLOCK` keys. Under a causal mask a rank skips what comes after its slice, so the
last one works as many times as long as the first as there are ranks: the others wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.engines.slices import Slices
from models.engines.softmax import Mask

BLOCK = 1024
Bias = Callable[[slice, range, range], Tensor]
"""(heads, T, S) of some heads, for positions of queries and of keys in their rows."""


@dataclass(frozen=True)
class Ring:
    """What attention is beside queries, keys and values; `segments` are of whole rows."""

    slices: Slices
    mask: Mask
    scale: float
    segments: Tensor | None = None
    bias: Bias | None = None
    softcap: float | None = None

    def own(self, length: int) -> range:
        """The positions of this rank's slice."""
        return range(self.slices.rank * length, (self.slices.rank + 1) * length)

    def blocks(self, whose: int, length: int) -> Iterator[range]:
        """The positions of the keys of a slice, so many at a time, that any query here may see."""
        queries = self.own(length)
        for first in range(whose * length, (whose + 1) * length, BLOCK):
            keys = range(first, min(first + BLOCK, (whose + 1) * length))
            window, far = self.mask.window, not (self.mask.stride or self.mask.n_global)
            ahead = self.mask.causal and keys[0] > queries[-1]
            if not ahead and not (far and window and queries[0] - keys[-1] >= window):
                yield keys

    def scores(self, q_BGHTK: Tensor, k_BGSK: Tensor, keys: range) -> tuple[Tensor, Tensor | None]:
        """Scores, -inf where nothing is seen, and what the cap makes of a change of them."""
        queries, device = self.own(q_BGHTK.shape[3]), q_BGHTK.device
        scores = (q_BGHTK @ k_BGSK[:, :, None].mT) * self.scale
        slope = None
        if self.softcap is not None:
            capped = torch.tanh(scores / self.softcap)
            scores, slope = capped * self.softcap, 1 - capped.square()
        if self.bias is not None:
            bias_HTS = self.bias(slice(None), queries, keys)
            *batch, _, n_queries, n_keys = bias_HTS.shape
            scores = scores + bias_HTS.reshape(*batch, -1, q_BGHTK.shape[2], n_queries, n_keys)
        at = (torch.arange(part.start, part.stop, device=device) for part in (queries, keys))
        seen = self.mask.visible(*at)
        if self.segments is not None:
            rows = (self.segments[:, part.start : part.stop] for part in (queries, keys))
            query_BT, key_BS = rows
            seen = seen & (query_BT[:, :, None] == key_BS[:, None])[:, None, None]
        return scores.masked_fill(~seen, -torch.inf), slope


def attend(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, ring: Ring) -> Tensor:
    """Slices of y_BTHV from slices of queries, keys and values; computes in float32 at least."""
    wide, (B, T, H, K) = torch.promote_types(q_BTHK.dtype, torch.float32), q_BTHK.shape
    G = k_BTGK.shape[2]
    q_BGHTK = q_BTHK.to(wide).view(B, T, G, H // G, K).permute(0, 2, 3, 1, 4)
    kv_BGTK = torch.cat([k_BTGK, v_BTGV], -1).to(wide).transpose(1, 2)
    y_BGHTV: Tensor = _Ring.apply(q_BGHTK, kv_BGTK, ring)  # type: ignore[no-untyped-call]
    return y_BGHTV.permute(0, 3, 1, 2, 4).reshape(B, T, H, -1).to(q_BTHK.dtype)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv_BGTK: Tensor, ring: Ring) -> Tensor:
        K, T = q.shape[-1], q.shape[3]
        y = q.new_zeros(*q.shape[:-1], kv_BGTK.shape[-1] - K)
        total = q.new_zeros(*q.shape[:-1], 1)
        most = torch.full_like(total, -torch.inf)
        for whose, kv in _round(kv_BGTK, ring.slices):
            for keys in ring.blocks(whose, T):
                k, v = _part(kv, keys, T).tensor_split([K], -1)
                scores, _ = ring.scores(q, k, keys)
                before, most = most, torch.maximum(most, scores.amax(-1, keepdim=True))
                level = most.masked_fill(most == -torch.inf, 0.0)  # where nothing was seen yet
                kept, weights = (before - level).exp(), (scores - level).exp()
                total = total * kept + weights.sum(-1, keepdim=True)
                y = y * kept + weights @ v[:, :, None]
        y, log_total = y / total, most + total.log()
        ctx.save_for_backward(q, kv_BGTK, y, log_total)
        ctx.ring = ring
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        q, kv_BGTK, y, log_total = ctx.saved_tensors
        ring, K, T = ctx.ring, q.shape[-1], q.shape[3]
        mean, dq, dkv = (dy * y).sum(-1, keepdim=True), torch.zeros_like(q), None
        for whose, kv in _round(kv_BGTK, ring.slices):
            dkv = torch.zeros_like(kv) if dkv is None else _wait(*_pass_on(dkv, ring.slices))
            for keys in ring.blocks(whose, T):
                k, v = _part(kv, keys, T).tensor_split([K], -1)
                dk, dv = _part(dkv, keys, T).tensor_split([K], -1)
                scores, slope = ring.scores(q, k, keys)
                weights = (scores - log_total).exp()
                dv += (weights.mT @ dy).sum(2)
                dscores = weights * (dy @ v[:, :, None].mT - mean) * ring.scale
                dscores = dscores if slope is None else dscores * slope
                dq += dscores @ k[:, :, None]
                dk += (dscores.mT @ q).sum(2)
        assert dkv is not None
        return dq, _wait(*_pass_on(dkv, ring.slices)), None  # home again


def _part(x_BGTK: Tensor, keys: range, length: int) -> Tensor:
    """Of the slice that has these keys, theirs."""
    first = keys.start % length
    return x_BGTK[:, :, first : first + len(keys)]


def _round(x: Tensor, slices: Slices) -> Iterator[tuple[int, Tensor]]:
    """Every rank's tensor with the rank, this one's own first; the next is under way meanwhile."""
    x = x.contiguous()
    for step in range(slices.size):
        last = step == slices.size - 1
        coming = None if last else _pass_on(x, slices)
        yield (slices.rank - step) % slices.size, x
        if coming is not None:
            x = _wait(*coming)


def _pass_on(x: Tensor, slices: Slices) -> tuple[Tensor, list[Any], Tensor]:
    """Begin to send to the next rank, and to receive from the one before."""
    received = torch.empty_like(x)
    group = slices.group
    both = [
        dist.P2POp(dist.isend, x, slices.peer(1), group),
        dist.P2POp(dist.irecv, received, slices.peer(-1), group),
    ]
    return received, dist.batch_isend_irecv(both), x


def _wait(received: Tensor, works: list[Any], sent: Tensor) -> Tensor:
    """What came, once `sent` has gone too."""
    for work in works:
        work.wait()
    return received
