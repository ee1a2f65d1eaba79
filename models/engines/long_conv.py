"""Causal convolution with a filter as long as the sequence: y_t = Σ_{s≤t} K_{t-s} x_s per channel,
by fast Fourier transforms of twice its length (S4, 2111.00396, section 2.4)."""

from __future__ import annotations

import torch
from torch import Tensor


def flops(length: int, n_channels: int) -> int:
    """A multiply-add for each pair of positions."""
    return length * (length + 1) * n_channels


def naive(x_BTI: Tensor, kernel_IT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
    """One position after the other."""
    rows = []
    for t in range(x_BTI.shape[1]):
        past_BTI = x_BTI[:, : t + 1] * kernel_IT[:, : t + 1].flip(1).t()
        if segments_BT is not None:
            past_BTI = past_BTI * (segments_BT[:, : t + 1] == segments_BT[:, t, None])[..., None]
        rows.append(past_BTI.sum(1))
    return torch.stack(rows, 1)


def documents(segments_BT: Tensor) -> list[list[int]]:
    """How long those of each row are. The host waits for it: ask once for all layers."""
    rows = segments_BT.cpu()
    return [torch.unique_consecutive(row, return_counts=True)[1].tolist() for row in rows]


def conv(x_BTI: Tensor, kernel_IT: Tensor, lengths: list[list[int]] | None = None) -> Tensor:
    """`naive` by Fourier transforms, of each document by itself; `lengths` are the `documents`."""
    if lengths is None:
        return _transformed(x_BTI, kernel_IT)
    rows = []
    for x_TI, of_row in zip(x_BTI, lengths, strict=True):
        parts = torch.split(x_TI, of_row)
        rows.append(torch.cat([_transformed(x[None], kernel_IT)[0] for x in parts]))
    return torch.stack(rows)


def _transformed(x_BTI: Tensor, kernel_IT: Tensor) -> Tensor:
    T = x_BTI.shape[1]
    spectrum = torch.fft.rfft(x_BTI.mT, n=2 * T) * torch.fft.rfft(kernel_IT[:, :T], n=2 * T)
    y_BTI: Tensor = torch.fft.irfft(spectrum, n=2 * T)[..., :T].mT
    return y_BTI
