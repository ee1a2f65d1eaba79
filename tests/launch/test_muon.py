"""Muon's update, against what it is defined by."""

import pytest
import torch

from launch.muon import MATCHED_RMS, Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16), (3, 16, 32)])
def test_singular_values_become_nearly_one(shape: tuple[int, ...]):
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert singular.min() > 0.5
    assert singular.max() < 1.3


def test_singular_vectors_stay():
    torch.manual_seed(0)
    matrix = torch.randn(12, 20)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.mT @ orthogonal(matrix) @ v.mT
    assert (turned - turned.diagonal().diag()).abs().max() < 1e-4


def test_stacked_experts_are_updated_one_by_one():
    torch.manual_seed(0)
    stack = torch.randn(3, 8, 16)
    assert torch.allclose(
        orthogonal(stack), torch.stack([orthogonal(expert) for expert in stack]), atol=1e-5
    )


def test_the_update_has_the_size_of_adamws():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(64, 256))
    weight.grad = torch.randn(64, 256)
    group = {"params": [weight], "lr": 1.0, "weight_decay": 0.0, "muon": True}
    Muon([group], momentum=0.95, betas=(0.9, 0.95), eps=1e-8).step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(MATCHED_RMS, rel=0.3)


def test_other_groups_take_adamw():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    settings = {"lr": 0.1, "weight_decay": 0.1}
    muon = Muon([{"params": [ours], "muon": False, **settings}], 0.95, (0.9, 0.95), 1e-8)
    adamw = torch.optim.AdamW([theirs], betas=(0.9, 0.95), eps=1e-8, fused=True, **settings)
    for _ in range(5):
        ours.grad = torch.randn(5)
        theirs.grad = ours.grad.clone()
        muon.step()
        adamw.step()
    assert torch.equal(ours, theirs)
