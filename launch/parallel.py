"""A model's parameters laid out over ranks."""

from functools import cache
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from launch.config import RunConfig
from launch.ranks import Ranks
from launch.zero_state import Share
from models.channels.expert_parallel import install
from models.channels.moe import Experts, Moe
from models.engines.slices import Slices
from models.model import Model


class Replicated:
    """The `Dispatcher` of ranks that each hold every expert: only the statistics are shared."""

    def exchange(self, rows_ND: Tensor, counts_E: Tensor, experts: Experts) -> Tensor:
        return experts(rows_ND, counts_E)

    def mean(self, value: Tensor) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()


def spread_experts(model: Model, expert_group: Any, ranks: Ranks) -> None:
    """Keep this rank's share of the experts, before `init_weights`, which knows them by number.

    Over several ranks the balancing losses see the whole batch, so that they, too, do not depend
    on the number of ranks.
    """
    if expert_group is not None:
        install(model, expert_group)
    elif ranks.world > 1:
        for branch in _moe_branches(model):
            branch.expert_group = Replicated()


def cut_rows(model: Model, config: RunConfig) -> None:
    """Have neighbouring ranks hold slices of the same rows.

    To DeepSpeed they are ranks with data of their own: a loss that is divided by the weight of the
    whole batch adds up over slices as it does over rows.
    """
    parallel = config.parallel
    if parallel.sequence_parallel > 1:
        model.slices = Slices(_neighbours(parallel.sequence_parallel), parallel.sequence_mode)


@cache
def _neighbours(size: int) -> Any:
    """This rank's group of so many, made once in the life of a gang."""
    group, _ = dist.new_subgroups(size)  # type: ignore[no-untyped-call]
    return group


def shares(model: Model, config: RunConfig, ranks: Ranks) -> dict[nn.Parameter, Share]:
    """What of each whole parameter this rank's tensor is."""
    found = {
        param: Share(name, first_replica=ranks.rank == 0)
        for name, param in model.named_parameters()
        if param.requires_grad
    }
    for branch in _moe_branches(model) if config.parallel.expert_parallel > 1 else ():
        for _, stack, _, _ in branch.experts():
            offset = branch.held.start * stack[0].numel()
            first = ranks.rank < config.parallel.expert_parallel
            found[stack] = Share(found[stack].name, offset, first)
    return found


def _moe_branches(model: Model) -> list[Moe]:
    return [branch for branch in model.modules() if isinstance(branch, Moe)]
