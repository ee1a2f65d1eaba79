"""A sequence as chunks, padded at its end: (B, T, H, …) to (B, C, H, Q, …) and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Chunks:
    """`length` positions T in C chunks of `size` Q, which is at most T."""

    def __init__(self, length: int, size: int) -> None:
        self.length, self.size = length, min(size, length)
        self.count = -(-length // self.size)
        self.pad = self.count * self.size - length

    def fold(self, x: Tensor) -> Tensor:
        """(B, T, H, …) to (B, C, H, Q, …)."""
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, self.pad))
        return x.view(x.shape[0], self.count, self.size, *x.shape[2:]).transpose(2, 3)

    def unfold(self, rows: list[Tensor]) -> Tensor:
        """One (B, H, Q, V) of each chunk to (B, T, H, V)."""
        y = torch.stack(rows, 1).transpose(2, 3)
        return y.reshape(y.shape[0], -1, *y.shape[3:])[:, : self.length]

    def runs(self, starts_BT: Tensor) -> Tensor:
        """Which start of its chunk a position comes after: 0 before the first, (B, C, 1, Q)."""
        starts = F.pad(starts_BT, (0, self.pad))
        return starts.view(-1, self.count, 1, self.size).cumsum(-1)
