"""Short depthwise causal convolution, y_t = Σ_j w_j x_{t-j}, j < n_taps, one filter per channel;
and what a convolution over all channels reads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.engines.select import kernel

ALIGNED = 8
"""What causal_conv1d wants channels and strides to be multiples of."""


def flops(length: int, n_taps: int, n_channels: int) -> int:
    """Taps that fall on the sequence, one multiply-add each."""
    reach = min(n_taps, length)
    return 2 * n_channels * (reach * length - reach * (reach - 1) // 2)


def naive(
    x_BTI: Tensor, weight_IQ: Tensor, bias_I: Tensor | None, segments_BT: Tensor | None = None
) -> Tensor:
    """One position and one tap at a time; `weight_IQ[:, -1]` meets the position itself."""
    n_taps = weight_IQ.shape[1]
    rows = []
    for t in range(x_BTI.shape[1]):
        y_BI = torch.zeros_like(x_BTI[:, 0]) if bias_I is None else bias_I.expand_as(x_BTI[:, 0])
        for j in range(min(n_taps, t + 1)):
            tap_BI = weight_IQ[:, n_taps - 1 - j] * x_BTI[:, t - j]
            if segments_BT is not None:
                tap_BI = tap_BI * (segments_BT[:, t] == segments_BT[:, t - j])[:, None]
            y_BI = y_BI + tap_BI
        rows.append(y_BI)
    return torch.stack(rows, 1)


def _by_kernel(
    cuda: Any, x_BTI: Tensor, weight_IQ: Tensor, bias_I: Tensor | None, segments_BT: Tensor | None
) -> Tensor:
    """By causal_conv1d, which wants channels aligned: a part of a wider tensor is copied."""
    steps = (*x_BTI.stride()[:2], x_BTI.storage_offset())
    if x_BTI.stride(2) != 1 or any(step % ALIGNED for step in steps):
        x_BTI = x_BTI.contiguous()
    runs_BT = None if segments_BT is None else segments_BT.to(torch.int32)
    y_BIT: Tensor = cuda.causal_conv1d_fn(x_BTI.transpose(1, 2), weight_IQ, bias_I, seq_idx=runs_BT)
    return y_BIT.transpose(1, 2)


def conv(
    x_BTI: Tensor,
    weight_IQ: Tensor,
    bias_I: Tensor | None,
    segments_BT: Tensor | None = None,
    before_BQI: Tensor | None = None,
) -> Tensor:
    """The sum of shifted copies, which needs no transposition; `before` are the inputs already
    seen, n_taps - 1 of them (zeros at the start of a sequence). Segments may be given for those,
    too, which otherwise belong to none."""
    n_taps, length = weight_IQ.shape[1], x_BTI.shape[1]
    cuda = kernel("causal_conv1d") if x_BTI.is_cuda else None
    fits = 2 <= n_taps <= 4 and x_BTI.shape[-1] % ALIGNED == 0
    if cuda is not None and before_BQI is None and fits:
        return _by_kernel(cuda, x_BTI, weight_IQ, bias_I, segments_BT)
    if before_BQI is None:
        padded = F.pad(x_BTI, (0, 0, n_taps - 1, 0))
    else:
        padded = torch.cat([before_BQI, x_BTI], 1)
    weight_QI = weight_IQ.t()
    y = x_BTI * weight_QI[-1] if bias_I is None else torch.addcmul(bias_I, x_BTI, weight_QI[-1])
    known = None if segments_BT is None else _known(segments_BT, length, n_taps - 1)
    for j in range(1, n_taps):
        start = n_taps - 1 - j
        tap = padded[:, start : start + length]
        if known is not None:
            same = known[:, start : start + length] == known[:, n_taps - 1 :]
            tap = tap * same[..., None]
        y = torch.addcmul(y, tap, weight_QI[start])
    return y


def taps(
    x_BTI: Tensor,
    n_taps: int,
    dilation: int = 1,
    *,
    causal: bool = True,
    segments_BT: Tensor | None = None,
    before_BQI: Tensor | None = None,
) -> Tensor:
    """What each position of a convolution over all channels reads, (B, T, n_taps I): the positions
    every `dilation` up to itself, or centred on itself; one matmul then weighs them. Zeros stand
    beyond the sequence and its document. `before` are the (n_taps - 1) dilation inputs already
    seen."""
    length, reach = x_BTI.shape[1], (n_taps - 1) * dilation
    ahead = 0 if causal else reach // 2
    if before_BQI is None:
        padded = F.pad(x_BTI, (0, 0, reach - ahead, ahead))
    else:
        padded = torch.cat([before_BQI, x_BTI], 1)
    seen = [padded[:, j * dilation : j * dilation + length] for j in range(n_taps)]
    if segments_BT is not None:
        known = F.pad(_known(segments_BT, length, reach - ahead), (0, ahead), value=-1)
        own = known[:, reach - ahead :][:, :length]
        for j in range(n_taps):
            same = known[:, j * dilation : j * dilation + length] == own
            seen[j] = seen[j] * same[..., None]
    return torch.cat(seen, -1)


def _known(segments_BT: Tensor, length: int, reach: int) -> Tensor:
    """Segments with those of `reach` positions before in front, -1 if these are not given."""
    return F.pad(segments_BT, (reach + length - segments_BT.shape[1], 0), value=-1)
