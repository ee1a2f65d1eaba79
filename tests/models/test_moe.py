"""The experts: a gated sum of MLPs, evenly loaded at best, the same on one rank and on two."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from models.branch import Frame
from models.channels.activation import activate
from models.channels.expert_parallel import ExpertParallel, _shard
from models.channels.moe import Moe
from models.channels.router import balance_loss
from models.context import Context

WIDTH = 16


def make(**options: Any) -> Moe:
    branch = Moe(Frame(width=WIDTH, n_layers=1, n_branches=1), hidden=8, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.normal_(generator=generator)
    return branch.double()


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_equals_the_sum_over_experts_written_out(top_k: int) -> None:
    branch = make(n_experts=4, top_k=top_k, normalize=True)
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64, requires_grad=True)
    y, _ = branch(x, Context())
    probabilities = branch.router.gate(x).softmax(-1)
    chosen = probabilities >= probabilities.topk(top_k).values[..., -1:]
    gates = probabilities * chosen / (probabilities * chosen).sum(-1, keepdim=True)
    inner = activate("swiglu", torch.einsum("btd,edi->btei", x, branch.into_EDI))
    reference = torch.einsum("bte,btei,eid->btd", gates, inner, branch.out_EID)
    torch.testing.assert_close(y, reference)
    weights = [x, *branch.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(y.square().sum(), weights),
        torch.autograd.grad(reference.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_load_sums_to_one_and_balance_is_one_when_even() -> None:
    branch = make(n_experts=4)
    _, aux = branch(torch.randn(2, 5, WIDTH, dtype=torch.float64), Context())
    assert aux["load"].sum() == pytest.approx(1)
    even = torch.full((4,), 0.25)
    assert balance_loss(even, even.expand(7, 4)) == pytest.approx(1)


def test_experts_are_marked() -> None:
    branch = make()
    marked = {name for name, p in branch.named_parameters() if getattr(p, "expert", False)}
    assert marked == {"into_EDI", "out_EID"}


def _rank(rank: int, port: int, results: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    branch = make(n_experts=4)
    _shard(branch, rank, 2)
    branch.expert_group = ExpertParallel(dist.group.WORLD)
    x = _inputs()[rank : rank + 1].requires_grad_()
    y, aux = branch(x, Context())
    loss = y.square().mean() + aux["balance"]
    loss.backward()
    results[rank] = [t.detach().clone() for t in (y, x.grad / 2, branch.into_EDI.grad / 2, loss)]
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


def _inputs() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 6, WIDTH, dtype=torch.float64, generator=generator)


def test_two_ranks_give_what_one_gives() -> None:
    """Outputs, the gradients of inputs and experts, and the balanced loss."""
    branch, x = make(n_experts=4), _inputs().requires_grad_()
    y, aux = branch(x, Context())
    loss = y.square().mean() + aux["balance"]
    loss.backward()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_rank, (port, results), nprocs=2)
        parts = [results[rank] for rank in range(2)]
    both = [torch.cat([parts[0][i], parts[1][i]]) for i in range(3)]
    assert x.grad is not None
    torch.testing.assert_close(both, [y.detach(), x.grad, branch.into_EDI.grad])
    torch.testing.assert_close((parts[0][3] + parts[1][3]) / 2, loss.detach())


def test_swiglu_is_silu_times_the_other_half() -> None:
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    gate, value = x.chunk(2, -1)
    expected = torch.nn.functional.silu(gate) * value
    torch.testing.assert_close(activate("swiglu", x), expected)
    dy = torch.randn(3, 5, 4, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(y, x, dy)[0] for y in (activate("swiglu", x), expected))
    torch.testing.assert_close(ours, theirs)
