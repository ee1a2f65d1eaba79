"""A DeepSpeed optimizer's state as fragments of named parameters.

Whatever the ZeRO stage, the world size and the expert-parallel size, a rank's share of a
parameter is one interval of its flat elements, held in fp32 with the optimizer's moments beside
it. Fragments are views: writing into them is loading. This is the only file that knows where the
stages keep them (DeepSpeed 0.19).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from launch.masters import Masters

WEIGHT = "weight"


@dataclass(frozen=True)
class Fragment:
    """`start` counts elements of the whole parameter; `tensors` are flat.

    They are equally long but for an optimizer's factored moments, which no layout shards.
    `writes` is false where another rank holds the same interval and saves it.
    """

    name: str
    start: int
    tensors: dict[str, Tensor]
    writes: bool


@dataclass(frozen=True)
class Share:
    """What expert parallelism made of a parameter here: it begins at `offset` of the whole."""

    name: str
    offset: int = 0
    first_replica: bool = True


class ZeroState:
    """`shares` names every trainable parameter; `buffers` are the same on every rank."""

    def __init__(
        self, engine: Any, shares: dict[nn.Parameter, Share], buffers: dict[str, Tensor]
    ) -> None:
        self.buffers = buffers
        self._optimizer = engine.optimizer
        self._shares = shares
        self.stage: int = engine.zero_optimization_stage()

    @property
    def torch_optimizer(self) -> torch.optim.Optimizer:
        """The client's, in whatever wraps it."""
        optimizer: torch.optim.Optimizer = getattr(self._optimizer, "optimizer", self._optimizer)
        return optimizer

    def owner(self, param: nn.Parameter) -> Tensor:
        """The whole weight that the client's optimizer updates (stage 0 alone has such)."""
        assert self.stage == 0
        return self._optimizer.of(param) if isinstance(self._optimizer, Masters) else param

    def fragments(self) -> Iterator[Fragment]:
        for param, share in self._shares.items():
            located = self._locate(param)
            if located is None:
                continue
            owner, offset, start, length = located
            whole = {WEIGHT: owner.data} | self.torch_optimizer.state.get(owner, {})
            yield Fragment(
                name=share.name,
                start=share.offset + start,
                tensors={
                    key: value.view(-1).narrow(0, offset, length)
                    if value.shape == owner.shape
                    else value.view(-1)
                    for key, value in whole.items()
                    if key != "step"
                },
                writes=self.stage > 0 or share.first_replica,
            )

    def _locate(self, param: Any) -> tuple[Tensor, int, int, int] | None:
        """The tensor that holds this rank's share, where in it, from which element, how many."""
        if self.stage == 0:
            return self.owner(param), 0, 0, param.numel()
        if self.stage == 3:
            group, offset, length = self._optimizer.grad_position[
                self._optimizer.get_param_id(param)
            ]
            start = param.ds_tensor.numel() * torch.distributed.get_rank()
            length = min(length, param.ds_numel - start)
            owner = self._optimizer.fp32_partitioned_groups_flat[group]
            return (owner, offset, start, length) if length > 0 else None
        mapping = param._hp_mapping
        if mapping is None:
            return None
        owner = self._optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
        address = mapping.hp_fragment_address
        return owner, address.start, mapping.lp_fragment_address.start, address.numel

    def optimizer_steps(self) -> int:
        """Updates done, which AdamW's bias correction counts."""
        states = self.torch_optimizer.state.values()
        return max((int(state["step"]) for state in states if "step" in state), default=0)

    @torch.no_grad()
    def allocate(self, steps: int) -> None:
        """Have the optimizer make its state, by an update at rate 0, for a load to fill."""
        optimizer = self.torch_optimizer
        located = [self._locate(param) for param in self._shares]
        owners = list({id(place[0]): place[0] for place in located if place}.values())
        groups = optimizer.param_groups
        sharded = [{**groups[0], "params": owners}]
        optimizer.param_groups = [{**g, "lr": 0.0} for g in (sharded if self.stage else groups)]
        for owner in owners:
            owner.grad = torch.zeros_like(owner)
        optimizer.step()
        optimizer.param_groups = groups
        for owner in owners:
            owner.grad = None
            optimizer.state[owner]["step"].fill_(steps)

    def publish(self) -> None:
        """Bring loaded fp32 weights to the model that computes, on every rank."""
        if isinstance(self._optimizer, Masters):
            self._optimizer.publish()
        elif self.stage in (1, 2):
            self._optimizer.update_lp_params()
        elif self.stage == 3:
            for group in range(len(self._optimizer.fp16_groups)):
                self._optimizer._reassign_or_swap_out_partitioned_parameters(group)
            persistent = self._optimizer.persistent_parameters
            if persistent:
                persistent[0].partition(persistent)
                persistent[0].all_gather(persistent)
