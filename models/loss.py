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
    """Keeps the logits and one number per row, and writes the gradient once."""

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, targets_N: Tensor, shares_N: Tensor, smoothing: float, z: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(logits_NV.dtype, torch.float32)
        wide_NV = logits_NV.to(dtype)
        log_z_N = wide_NV.logsumexp(-1)
        nats_N = log_z_N - wide_NV.gather(-1, targets_N[:, None])[:, 0]
        nats, z_mean = nats_N @ shares_N.to(dtype), log_z_N.square() @ shares_N.to(dtype)
        total = nats + z * z_mean
        if smoothing:
            uniform_N = log_z_N - wide_NV.mean(-1)
            total = total + smoothing * (uniform_N @ shares_N.to(dtype) - nats)
        ctx.save_for_backward(logits_NV, targets_N, shares_N, log_z_N)
        ctx.smoothing, ctx.z = smoothing, z
        ctx.mark_non_differentiable(nats, z_mean)
        return total, nats, z_mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        logits_NV, targets_N, shares_N, log_z_N = ctx.saved_tensors
        share_N1 = (shares_N.to(log_z_N.dtype) * grads[0])[:, None]
        row_N1 = share_N1 * (1 + 2 * ctx.z * log_z_N[:, None]) if ctx.z else share_N1
        grad_NV = torch.sub(logits_NV, log_z_N[:, None]).exp_().mul_(row_N1)
        if ctx.smoothing:
            grad_NV.sub_(share_N1 * (ctx.smoothing / logits_NV.shape[-1]))
        hit_N1 = share_N1 * (ctx.smoothing - 1)
        grad_NV.scatter_add_(-1, targets_N[:, None], hit_N1.to(grad_NV.dtype))
        return grad_NV.to(logits_NV.dtype), None, None, None, None
