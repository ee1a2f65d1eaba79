"""Rows sorted by group times their group's matrix: y_n = x_n W_{g(n)}."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGNED = 8
"""What torch's kernel wants widths to be multiples of: 16 bytes."""


def naive(x_NI: Tensor, weight_EIO: Tensor, counts_E: Tensor) -> Tensor:
    """One row at a time against its gathered matrix."""
    group_N = torch.arange(len(weight_EIO), device=x_NI.device).repeat_interleave(counts_E)
    return torch.einsum("ni,nio->no", x_NI, weight_EIO[group_N])


def grouped(x_NI: Tensor, weight_EIO: Tensor, counts_E: Tensor) -> Tensor:
    """`naive`: torch's grouped kernel for bfloat16 on CUDA, else one matmul per group."""
    is_aligned = all(width % ALIGNED == 0 for width in weight_EIO.shape[1:])
    if x_NI.is_cuda and x_NI.dtype is torch.bfloat16 and is_aligned:
        offsets_E = counts_E.cumsum(0, dtype=torch.int32)
        result: Tensor = F.grouped_mm(x_NI, weight_EIO, offs=offsets_E)
        return result
    sizes = _sizes(counts_E, len(x_NI))
    product: Tensor = _Grouped.apply(x_NI, weight_EIO, sizes)  # type: ignore[no-untyped-call]
    return product


def _sizes(counts_E: Tensor, n_rows: int) -> list[int]:
    """Counts as numbers; on the meta device, where there are none, an even split."""
    if counts_E.device.type != "meta":
        sizes: list[int] = counts_E.tolist()
        return sizes
    n = len(counts_E)
    return [n_rows // n + (e < n_rows % n) for e in range(n)]


def _split(rows: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    return torch.split(rows, sizes)


class _Grouped(torch.autograd.Function):
    """Each group's product is written in place: no split, no concatenation."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_EIO: Tensor, sizes: list[int]) -> Tensor:
        ctx.save_for_backward(x_NI, weight_EIO)
        ctx.sizes = sizes
        y_NO = x_NI.new_empty(len(x_NI), weight_EIO.shape[-1])
        for x, weight, y in zip(_split(x_NI, sizes), weight_EIO, _split(y_NO, sizes), strict=True):
            torch.mm(x, weight, out=y)
        return y_NO

    @staticmethod
    def backward(ctx: Any, dy_NO: Tensor) -> Any:
        x_NI, weight_EIO = ctx.saved_tensors
        dx_NI, dweight_EIO = torch.empty_like(x_NI), torch.empty_like(weight_EIO)
        splits = (_split(rows, ctx.sizes) for rows in (x_NI, dx_NI, dy_NO.contiguous()))
        parts = zip(*splits, weight_EIO, dweight_EIO, strict=True)
        for x, dx, dy, weight, dweight in parts:
            torch.mm(dy, weight.t(), out=dx)
            torch.mm(x.t(), dy, out=dweight)
        return dx_NI, dweight_EIO, None
