"""Experts spread over the ranks of a group; rows travel there and back by all-to-all."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.channels.moe import Experts, Moe
from models.errors import RecipeError


class ExpertParallel:
    """A `Dispatcher` over `group`, whose rank r holds the r-th equal share of the experts.

    The loss of a rank is the mean over its own tokens; the gradient of an expert comes out as the
    sum over the group's ranks, so divide by the group's size for the gradient of the ranks' mean.
    `batch_group` are the ranks that share a batch (None: the default group).
    """

    def __init__(self, group: Any, batch_group: Any = None) -> None:
        self.group, self.batch_group = group, batch_group
        self.size = dist.get_world_size(group)

    def exchange(self, rows_ND: Tensor, counts_E: Tensor, experts: Experts) -> Tensor:
        """Send rows to their experts, apply these, bring the results back in place."""
        theirs_RE = torch.empty_like(counts_E)
        dist.all_to_all_single(theirs_RE, counts_E, group=self.group)
        theirs_RE = theirs_RE.view(self.size, -1)  # from rank R, for each expert held here
        totals = torch.stack([counts_E.view(self.size, -1).sum(1), theirs_RE.sum(1)])
        sent, received = totals.tolist()  # the one time that the host waits for a GPU
        here_ND = _travel(rows_ND, sent, received, self.group)
        order_N = _by_expert(theirs_RE, len(here_ND))
        done_ND = experts(here_ND[order_N], theirs_RE.sum(0))
        back_ND = torch.empty_like(done_ND).index_copy(0, order_N, done_ND)
        return _travel(back_ND, received, sent, self.group)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over `batch_group`, without gradient."""
        total = value.detach().clone()
        dist.all_reduce(total, group=self.batch_group)
        return total / dist.get_world_size(self.batch_group)


def install(model: nn.Module, group: Any, batch_group: Any = None) -> None:
    """Keep this rank's share of every MoE branch's experts and route through the group."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    for branch in model.modules():
        if isinstance(branch, Moe):
            _shard(branch, rank, size)
            branch.expert_group = ExpertParallel(group, batch_group)


def _shard(branch: Moe, rank: int, size: int) -> None:
    if branch.n_experts % size:
        what = f"does not spread evenly over {size} ranks"
        raise RecipeError(("n_experts",), branch.n_experts, f"multiples of {size}", what)
    share = branch.n_experts // size
    branch.held = range(rank * share, (rank + 1) * share)
    for name, weight, _, _ in list(branch.experts()):
        kept = nn.Parameter(weight.detach()[branch.held.start : branch.held.stop].clone())
        kept.expert = True  # type: ignore[attr-defined]
        setattr(branch, name, kept)


def _by_expert(counts_RE: Tensor, n_rows: int) -> Tensor:
    """Order that sorts rows, which come by (rank, expert), by expert."""
    n_ranks, n_experts = counts_RE.shape
    expert_N = torch.arange(n_experts, device=counts_RE.device).repeat(n_ranks)
    of_row_N = expert_N.repeat_interleave(counts_RE.flatten(), output_size=n_rows)
    return of_row_N.argsort(stable=True)


class _AllToAll(torch.autograd.Function):
    """Rows to their ranks; gradients the same way back."""

    @staticmethod
    def forward(
        ctx: Any, rows_ND: Tensor, sent: list[int], received: list[int], group: Any
    ) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _all_to_all(rows_ND, sent, received, group)

    @staticmethod
    def backward(ctx: Any, d_ND: Tensor) -> Any:
        return _all_to_all(d_ND, ctx.received, ctx.sent, ctx.group), None, None, None


def _travel(rows_ND: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
    result: Tensor = _AllToAll.apply(  # type: ignore[no-untyped-call]
        rows_ND, sent, received, group
    )
    return result


def _all_to_all(rows_ND: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
    result_ND = rows_ND.new_empty(sum(received), rows_ND.shape[-1])
    dist.all_to_all_single(result_ND, rows_ND.contiguous(), received, sent, group=group)
    return result_ND
