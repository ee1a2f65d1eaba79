"""Mixture of experts: a router sends each token to a few of many MLPs, none of them dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.branch import Aux, Branch, Frame
from models.channels.activation import Activation, activate, hidden_width, is_gated
from models.channels.router import Router, balance_loss
from models.context import Context
from models.engines.grouped_matmul import grouped
from models.errors import RecipeError
from models.linear import Role

Experts = Callable[[Tensor, Tensor], Tensor]


class Dispatcher(Protocol):
    """How rows reach experts that other ranks hold (`models.channels.expert_parallel`)."""

    def exchange(self, rows_ND: Tensor, counts_E: Tensor, experts: Experts) -> Tensor:
        """`experts(rows, counts)` of rows sorted by expert, wherever the experts are."""

    def mean(self, value: Tensor) -> Tensor:
        """A statistic averaged over the ranks that share a batch."""


class Moe(Branch, name="moe"):
    """y = Σ_k g_k · expert_k(x) over the router's top_k of n_experts (GShard, 2006.16668;
    Switch, 2101.03961 for top_k 1; Mixtral, 2401.04088).

    `normalize`: the chosen weights are made to sum to 1; by default if there are several (a single
    one would be constant, and the router learn nothing). Experts are `mlp`s; their weights are
    stacked (E, …) and carry `expert = True`. Reports the raw losses `balance` and `router_z`, and
    `load`, the share of rows of each expert.
    """

    derived = ("expansion", "multiple", "balance_weight", "router_z_weight")

    def __init__(
        self,
        frame: Frame,
        *,
        n_experts: int = 8,
        top_k: int = 2,
        activation: Activation = "swiglu",
        hidden: int | None = None,
        expansion: float | None = None,
        multiple: int = 8,
        normalize: bool | None = None,
        balance_weight: float = 0.01,
        router_z_weight: float = 0.001,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= n_experts:
            raise RecipeError(("top_k",), top_k, f"1 to {n_experts}, n_experts", "out of range")
        self.n_experts, self.top_k, self.activation = n_experts, top_k, activation
        self.hidden = hidden or hidden_width(frame.width, activation, expansion, multiple)
        self.aux_weights = {"balance": balance_weight, "router_z": router_z_weight}
        self.normalize = top_k > 1 if normalize is None else normalize
        self.router = Router(frame.width, n_experts, top_k, normalize=self.normalize)
        n_in = self.hidden * (2 if is_gated(activation) else 1)
        self.into_EDI = nn.Parameter(torch.empty(n_experts, frame.width, n_in))
        self.out_EID = nn.Parameter(torch.empty(n_experts, self.hidden, frame.width))
        self.held = range(n_experts)
        self.expert_group: Dispatcher | None = None
        for weight in (self.into_EDI, self.out_EID):
            weight.expert = True  # type: ignore[attr-defined]

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Aux]:
        """Transform each position."""
        x_ND = x_BTD.flatten(0, -2)
        gate_NK, expert_NK, probability_NE, z = self.router(x_ND)
        choice_N = expert_NK.flatten()
        order_N = choice_N.argsort(stable=True)
        counts_E = choice_N.new_zeros(self.n_experts)
        counts_E.scatter_add_(0, choice_N, torch.ones_like(choice_N))
        rows_ND = _Spread.apply(x_ND, order_N, self.top_k)  # type: ignore[no-untyped-call]
        if self.expert_group is None:
            rows_ND = self._apply_experts(rows_ND, counts_E)
        else:
            rows_ND = self.expert_group.exchange(rows_ND, counts_E, self._apply_experts)
        rows_ND = _Restore.apply(rows_ND, order_N)  # type: ignore[no-untyped-call]
        per_choice_NKD = rows_ND.view(len(x_ND), self.top_k, -1)
        y_ND = (gate_NK.to(rows_ND.dtype)[:, None, :] @ per_choice_NKD)[:, 0]
        load_E = counts_E / choice_N.numel()
        if self.expert_group is not None:
            load_E = self.expert_group.mean(load_E)
        balance = balance_loss(load_E, probability_NE)
        return y_ND.view_as(x_BTD), {"balance": balance, "router_z": z, "load": load_E}

    def _apply_experts(self, rows_ND: Tensor, counts_E: Tensor) -> Tensor:
        inner_NI = activate(self.activation, grouped(rows_ND, self.into_EDI, counts_E))
        return grouped(inner_NI, self.out_EID, counts_E)

    def matmul_flops(self) -> int:
        """The router, and top_k experts."""
        per_expert = (self.into_EDI[0].numel() + self.out_EID[0].numel()) * 2
        return super().matmul_flops() + self.top_k * per_expert

    def idle_params(self) -> int:
        """Experts that a token is not sent to."""
        per_expert = self.into_EDI[0].numel() + self.out_EID[0].numel()
        return (self.n_experts - self.top_k) * per_expert

    def experts(self) -> Iterator[tuple[str, nn.Parameter, Role, int]]:
        """Both stacks."""
        yield "into_EDI", self.into_EDI, "hidden", self.into_EDI.shape[1]
        yield "out_EID", self.out_EID, "out", self.hidden

    def expert_ids(self) -> range:
        """Which experts this rank holds."""
        return self.held


class _Spread(torch.autograd.Function):
    """Row n·K+k of the sorted choices from token n; the way back is a gather, not a scatter."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, order_N: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(order_N)
        ctx.top_k = top_k
        return x_ND.index_select(0, order_N // top_k)

    @staticmethod
    def backward(ctx: Any, drows_ND: Tensor) -> Any:
        (order_N,) = ctx.saved_tensors
        back_ND = drows_ND.index_select(0, _inverse(order_N))
        return back_ND.view(-1, ctx.top_k, drows_ND.shape[-1]).sum(1), None, None


class _Restore(torch.autograd.Function):
    """The rows in the order of the tokens again."""

    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, order_N: Tensor) -> Tensor:
        ctx.save_for_backward(order_N)
        return rows_ND.index_select(0, _inverse(order_N))

    @staticmethod
    def backward(ctx: Any, d_ND: Tensor) -> Any:
        (order_N,) = ctx.saved_tensors
        return d_ND.index_select(0, order_N), None


def _inverse(order_N: Tensor) -> Tensor:
    return torch.empty_like(order_N).scatter_(
        0, order_N, torch.arange(len(order_N), device=order_N.device)
    )
