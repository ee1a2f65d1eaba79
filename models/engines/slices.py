"""Rows cut along time: the ranks of a group hold consecutive, equally long slices of the same rows.

What works on each position by itself does not notice. Attention either scatters its heads over the
ranks, each of which then sees whole rows (Ulysses, 2309.14509), or passes keys and values around
(`models.engines.ring`). A recurrence goes on from the state that the slice before ended with.
All gradients are those of the sum of the ranks' losses.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

Mode = Literal["ulysses", "ring"]
State = dict[str, Tensor]
Layout = list[tuple[str, torch.Size, torch.dtype]]


class Slices:
    """This rank's place in `group`, whose P ranks hold the slices of its rows in their order."""

    def __init__(self, group: Any, mode: Mode = "ulysses") -> None:
        self.group, self.mode = group, mode
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._known: dict[Hashable, Layout] = {}
        self._told: set[Hashable] = set()

    def peer(self, step: int) -> int:
        """The global rank that holds the slice so many after this one, or before it, in a ring."""
        rank: int = dist.get_global_rank(self.group, (self.rank + step) % self.size)
        return rank

    def gather(self, own_BT: Tensor) -> Tensor:
        """Of whole rows, (B, P T), without a gradient."""
        own_BT = own_BT.contiguous()
        parts = [torch.empty_like(own_BT) for _ in range(self.size)]
        dist.all_gather(parts, own_BT, group=self.group)
        return torch.cat(parts, 1)

    def own_heads(self, n_heads: int) -> slice:
        """Which of all heads this rank has after `to_heads`."""
        n = n_heads // self.size
        return slice(self.rank * n, (self.rank + 1) * n)

    def to_heads(self, x_BTHK: Tensor) -> Tensor:
        """All heads of a slice to some heads of whole rows: (B, T, H, K) to (B, P T, H/P, K). Heads
        of keys that are too few to go around are repeated, each for a part of its queries."""
        n_heads = x_BTHK.shape[2]
        copies = math.lcm(n_heads, self.size) // n_heads
        if copies > 1:
            x_BTHK = x_BTHK.repeat_interleave(copies, 2)
        result: Tensor = _Exchange.apply(x_BTHK, self, True)  # type: ignore[no-untyped-call]
        return result

    def to_slices(self, x_BTHK: Tensor) -> Tensor:
        """The way back, (B, P T, H/P, K) to (B, T, H, K)."""
        result: Tensor = _Exchange.apply(x_BTHK, self, False)  # type: ignore[no-untyped-call]
        return result

    def receive(self, place: Hashable, x_BTD: Tensor) -> tuple[Tensor, State]:
        """The state that the slice before ended with at this place of the model; empty in the first
        slice. Gives `x_BTD`, what will be computed on, through which the state's gradient goes
        back even if there is none."""
        if self.rank == 0:
            return x_BTD, {}
        key = (place, x_BTD.shape, x_BTD.dtype)
        if key not in self._known:
            told: list[Any] = [None]
            dist.recv_object_list(told, self.peer(-1), group=self.group)
            self._known[key] = told[0]
        layout = self._known[key]
        x_BTD, *received = _Receive.apply(x_BTD, self, layout)  # type: ignore[no-untyped-call]
        return x_BTD, dict(zip((name for name, _, _ in layout), received, strict=True))

    def send(
        self, place: Hashable, x_BTD: Tensor, y_BTD: Tensor, state: State, is_again: bool
    ) -> Tensor:
        """Hand the state on, if it is not computed again; gives `y_BTD`, through which the state's
        gradient comes back. What states look like is told once for each place and shape."""
        if self.rank == self.size - 1:
            return y_BTD
        key = (place, x_BTD.shape, x_BTD.dtype)
        if key not in self._told:
            layout: Layout = [(name, part.shape, part.dtype) for name, part in state.items()]
            dist.send_object_list([layout], self.peer(1), group=self.group)
            self._told.add(key)
        result: Tensor = _Send.apply(  # type: ignore[no-untyped-call]
            y_BTD, self, is_again, *state.values()
        )
        return result


class _Exchange(torch.autograd.Function):
    """All-to-all between slices of rows and shares of heads; gradients go the other way."""

    @staticmethod
    def forward(ctx: Any, x_BTHK: Tensor, slices: Slices, to_heads: bool) -> Tensor:
        ctx.slices, ctx.to_heads = slices, to_heads
        return _exchange(x_BTHK, slices, to_heads)

    @staticmethod
    def backward(ctx: Any, dy_BTHK: Tensor) -> Any:
        return _exchange(dy_BTHK, ctx.slices, not ctx.to_heads), None, None


def _exchange(x: Tensor, slices: Slices, to_heads: bool) -> Tensor:
    """The dimension that is cut, by rank, comes first; the received parts are joined in another."""
    cut, joined = (2, 1) if to_heads else (1, 2)
    sent = torch.stack(x.chunk(slices.size, cut)).contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=slices.group)
    return torch.cat(received.unbind(0), joined)


class _Receive(torch.autograd.Function):
    """The tensors of a state from the rank before, and their gradients to it."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, slices: Slices, layout: Layout) -> tuple[Tensor, ...]:
        ctx.slices = slices
        state = [x_BTD.new_empty(shape, dtype=dtype) for _, shape, dtype in layout]
        for tensor in state:
            dist.recv(tensor, slices.peer(-1), group=slices.group)
        return x_BTD.view_as(x_BTD), *state

    @staticmethod
    def backward(ctx: Any, dx_BTD: Tensor, *dstate: Tensor) -> Any:
        for gradient in dstate:
            dist.send(gradient.contiguous(), ctx.slices.peer(-1), group=ctx.slices.group)
        return dx_BTD, None, None


class _Send(torch.autograd.Function):
    """The tensors of a state to the next rank, and their gradients from it.

    Where activations are computed again the next rank must not be waited for before that is done,
    since it may take part in it: looking at what is saved does it.
    """

    @staticmethod
    def forward(ctx: Any, y_BTD: Tensor, slices: Slices, is_again: bool, *state: Tensor) -> Tensor:
        ctx.slices = slices
        ctx.like = [(tensor.shape, tensor.dtype) for tensor in state]
        ctx.save_for_backward(y_BTD.new_empty(0))
        for tensor in () if is_again else state:
            dist.send(tensor.contiguous(), slices.peer(1), group=slices.group)
        return y_BTD.view_as(y_BTD)

    @staticmethod
    def backward(ctx: Any, dy_BTD: Tensor) -> Any:
        ctx.saved_tensors  # noqa: B018
        dstate = [dy_BTD.new_empty(shape, dtype=dtype) for shape, dtype in ctx.like]
        for gradient in dstate:
            dist.recv(gradient, ctx.slices.peer(1), group=ctx.slices.group)
        return dy_BTD, None, None, *dstate
