"""Tokens to rows sorted by expert, and back; neither way needs a scatter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def spread(x_ND: Tensor, order_N: Tensor, top_k: int) -> Tensor:
    """Rows in the order of `order_N`, whose entry n·K+k is the k-th choice of token n."""
    rows_ND: Tensor = _Spread.apply(x_ND, order_N, top_k)  # type: ignore[no-untyped-call]
    return rows_ND


def restore(rows_ND: Tensor, order_N: Tensor) -> Tensor:
    """The rows in the order of the tokens again, K for each."""
    restored_ND: Tensor = _Restore.apply(rows_ND, order_N)  # type: ignore[no-untyped-call]
    return restored_ND


def inverse(order_N: Tensor) -> Tensor:
    """The inverse of a permutation."""
    places_N = torch.arange(len(order_N), device=order_N.device)
    return torch.empty_like(order_N).scatter_(0, order_N, places_N)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, order_N: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(order_N)
        ctx.top_k = top_k
        return x_ND.index_select(0, order_N // top_k)

    @staticmethod
    def backward(ctx: Any, drows_ND: Tensor) -> Any:
        (order_N,) = ctx.saved_tensors
        back_ND = drows_ND.index_select(0, inverse(order_N))
        return back_ND.view(-1, ctx.top_k, drows_ND.shape[-1]).sum(1), None, None


class _Restore(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, order_N: Tensor) -> Tensor:
        ctx.save_for_backward(order_N)
        return rows_ND.index_select(0, inverse(order_N))

    @staticmethod
    def backward(ctx: Any, d_ND: Tensor) -> Any:
        (order_N,) = ctx.saved_tensors
        return d_ND.index_select(0, order_N), None
