"""The one loss function: weighted cross-entropy with label smoothing and z-loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossParts:
    """Means over the weighted positions, in nats per token, and the sum of the weights.

    total: what to differentiate, nats with label smoothing plus the weighted z-loss.
    nats: the plain negative log likelihood. z: mean of (log Σ exp logits)². weight: Σ weights.
    """

    total: Tensor
    nats: Tensor
    z: Tensor
    weight: Tensor


def cross_entropy(
    logits_BTV: Tensor,
    targets_BT: Tensor,
    weights_BT: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> LossParts:
    """-(1-ε) log p(target) - ε mean log p + z_loss · log²Z, averaged by weight.

    Label smoothing is that of 1512.00567, section 7; z-loss that of PaLM (2204.02311, section 5).
    Computed in float32; targets of weight 0 must still be valid ids. Zero weights give zero.
    """
    V = logits_BTV.shape[-1]
    logits_NV, targets_N = logits_BTV.reshape(-1, V), targets_BT.reshape(-1)
    if weights_BT is None:
        weights_N = torch.ones_like(targets_N, dtype=torch.float32)
    else:
        weights_N = weights_BT.reshape(-1).float()
    weight = weights_N.sum()
    shares_N = weights_N / weight.clamp(min=torch.finfo(torch.float32).tiny)
    total, nats, z = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits_NV, targets_N, shares_N, label_smoothing, z_loss
    )
    return LossParts(total, nats, z, weight)


class _CrossEntropy(torch.autograd.Function):
    """One pass over the logits each way: log p is kept in their place, and the gradient is exp(log
    p) with a correction at the target."""

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, targets_N: Tensor, shares_N: Tensor, smoothing: float, z: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(logits_NV.dtype, torch.float32)
        log_p_NV = torch.log_softmax(logits_NV, -1, dtype=dtype)
        shares_N = shares_N.to(dtype)
        log_z_N = logits_NV[:, 0].to(dtype) - log_p_NV[:, 0]
        nats = -log_p_NV.gather(-1, targets_N[:, None])[:, 0] @ shares_N
        z_mean = log_z_N.square() @ shares_N
        total = nats + z * z_mean
        if smoothing:
            total = total - smoothing * (log_p_NV.mean(-1) @ shares_N + nats)
        ctx.save_for_backward(log_p_NV, targets_N, shares_N, log_z_N)
        ctx.smoothing, ctx.z, ctx.dtype = smoothing, z, logits_NV.dtype
        ctx.mark_non_differentiable(nats, z_mean)
        return total, nats, z_mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        log_p_NV, targets_N, shares_N, log_z_N = ctx.saved_tensors
        share_N1 = (shares_N * grads[0])[:, None]
        row_N1 = share_N1 * (1 + 2 * ctx.z * log_z_N[:, None]) if ctx.z else share_N1
        grad_NV = log_p_NV.exp().mul_(row_N1)
        if ctx.smoothing:
            grad_NV.sub_(share_N1 * (ctx.smoothing / log_p_NV.shape[-1]))
        grad_NV.scatter_add_(-1, targets_N[:, None], share_N1 * (ctx.smoothing - 1))
        return grad_NV.to(ctx.dtype), None, None, None, None
