"""The loss against torch's own, its gradient against finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.loss import cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_torchs_cross_entropy(smoothing: float) -> None:
    logits = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (2, 5))
    weights = torch.tensor([[1.0, 1, 0, 0, 1], [0, 1, 1, 1, 0.5]])
    parts = cross_entropy(logits, targets, weights, label_smoothing=smoothing)
    rows = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=smoothing
    )
    reference = (rows * weights.flatten()).sum() / weights.sum()
    torch.testing.assert_close(parts.total, reference)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (parts.total, reference))
    torch.testing.assert_close(ours, theirs)
    assert parts.weight == weights.sum()


def test_gradient_with_everything_on() -> None:
    logits = torch.randn(1, 3, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 4, 2]])
    assert torch.autograd.gradcheck(
        lambda x: cross_entropy(x, targets, None, label_smoothing=0.1, z_loss=0.3).total, [logits]
    )


def test_z_loss_is_the_mean_squared_log_normaliser() -> None:
    logits, targets = torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.long)
    parts = cross_entropy(logits, targets, z_loss=0.5)
    torch.testing.assert_close(parts.z, logits.logsumexp(-1).square().mean())
    torch.testing.assert_close(parts.total, parts.nats + 0.5 * parts.z)


def test_no_weight_is_no_loss() -> None:
    logits = torch.randn(1, 2, 5, requires_grad=True)
    parts = cross_entropy(logits, torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2))
    parts.total.backward()
    assert parts.total == 0
    assert (logits.grad == 0).all()


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = torch.randn(1, 4, 512).bfloat16().requires_grad_()
    targets = torch.zeros(1, 4, dtype=torch.long)
    parts = cross_entropy(logits, targets)
    exact = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    torch.testing.assert_close(parts.total, exact)
