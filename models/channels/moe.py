"""Mixture of experts: a router sends each token to a few of many MLPs, none of them dropped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from models import limits
from models.branch import Aux, Branch, Frame
from models.channels.activation import Activation, activate, hidden_width, is_gated
from models.channels.dispatch import inverse, restore, spread
from models.channels.mlp import Mlp
from models.channels.router import Router, balance_loss
from models.context import Context
from models.engines.grouped_matmul import grouped
from models.linear import Linear, Role

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

    Experts are `mlp`s; their weights are stacked (E, …) and carry `expert = True`. score,
    normalize, scale, n_groups, top_groups, selection_bias: see `Router`; by default the chosen
    weights sum to 1 if there are several (one would be constant, and the router learn nothing).
    shared_hidden: width of a shared MLP that every token also takes (DeepSeekMoE, 2401.06066), or
    that of n_shared experts;
    shared_gate: weighed by sigmoid(w x) (Qwen2-MoE). gate_input: the weight multiplies the expert's
    input, not its output (Llama 4). capacity: an expert takes at most capacity · N K / E of the
    choices, first come first served, the others give zero (GShard); null drops none. bias_rate:
    step of the selection bias at each `rebalance`.

    Reports the raw losses `balance` and `router_z`, and `load`, the share of rows of each expert.
    A model averages the losses over its layers, where Switch adds them up, and `balance` is of all
    tokens of a micro-batch, where DeepSeek-V3's is of each sequence (2412.19437, equation 17).
    """

    derived = (
        "expansion",
        "multiple",
        "balance_weight",
        "router_z_weight",
        "bias_rate",
        "n_shared",
    )

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
        score: Literal["softmax", "sigmoid"] = "softmax",
        normalize: bool | None = None,
        scale: float = 1.0,
        n_groups: int = 1,
        top_groups: int = 1,
        selection_bias: bool = False,
        bias_rate: float = 0.001,
        shared_hidden: int | None = None,
        n_shared: int = 0,
        shared_gate: bool = False,
        gate_input: bool = False,
        capacity: float | None = None,
        balance_weight: float = 0.01,
        router_z_weight: float = 0.001,
    ) -> None:
        super().__init__()
        limits.experts(n_experts, top_k, n_groups, top_groups)
        self.n_experts, self.top_k, self.activation = n_experts, top_k, activation
        self.hidden = hidden or hidden_width(frame.width, activation, expansion, multiple)
        self.aux_weights = {"balance": balance_weight, "router_z": router_z_weight}
        self.normalize = top_k > 1 if normalize is None else normalize
        self.gate_input, self.capacity, self.bias_rate = gate_input, capacity, bias_rate
        self.router = Router(
            frame.width,
            n_experts,
            top_k,
            score=score,
            normalize=self.normalize,
            scale=scale,
            n_groups=n_groups,
            top_groups=top_groups,
            selection_bias=selection_bias,
        )
        n_in = self.hidden * (2 if is_gated(activation) else 1)
        self.into_EDI = nn.Parameter(torch.empty(n_experts, frame.width, n_in))
        self.out_EID = nn.Parameter(torch.empty(n_experts, self.hidden, frame.width))
        for weight in (self.into_EDI, self.out_EID):
            weight.expert = True  # type: ignore[attr-defined]
        self.shared = None
        self.shared_hidden = shared_hidden = shared_hidden or n_shared * self.hidden or None
        if shared_hidden is not None:
            self.shared = Mlp(frame, activation=activation, hidden=shared_hidden)
        self.shared_gate = Linear(frame.width, 1) if shared_gate else None
        self.held = range(n_experts)
        self.expert_group: Dispatcher | None = None

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Aux]:
        """Transform each position."""
        x_ND = x_BTD.flatten(0, -2)
        gate_NK, expert_NK, probability_NE, z = self.router(x_ND)
        choice_N = expert_NK.flatten()
        order_N = choice_N.argsort(stable=True)
        counts_E = choice_N.new_zeros(self.n_experts)
        counts_E.scatter_add_(0, choice_N, torch.ones_like(choice_N))
        if self.capacity is not None:
            gate_NK = gate_NK * self._fits(order_N, choice_N, counts_E).view_as(gate_NK)
        y_ND = self._mix(x_ND, gate_NK.to(x_ND.dtype), order_N, counts_E)
        if self.shared is not None:
            y_ND = y_ND + self._shared(x_ND, context)
        load_E = counts_E / choice_N.numel()
        if self.expert_group is not None:
            load_E = self.expert_group.mean(load_E)
        balance = balance_loss(load_E, probability_NE)
        return y_ND.view_as(x_BTD), {"balance": balance, "router_z": z, "load": load_E}

    def _mix(self, x_ND: Tensor, gate_NK: Tensor, order_N: Tensor, counts_E: Tensor) -> Tensor:
        rows_ND = spread(x_ND, order_N, self.top_k)
        if self.gate_input:
            rows_ND = rows_ND * gate_NK.flatten()[order_N, None]
        if self.expert_group is None:
            rows_ND = self._apply_experts(rows_ND, counts_E)
        else:
            rows_ND = self.expert_group.exchange(rows_ND, counts_E, self._apply_experts)
        rows_ND = restore(rows_ND, order_N)
        per_choice_NKD = rows_ND.view(len(x_ND), self.top_k, -1)
        if not self.gate_input:
            per_choice_NKD = per_choice_NKD * gate_NK[..., None]
        return per_choice_NKD.sum(1)

    def _shared(self, x_ND: Tensor, context: Context) -> Tensor:
        assert self.shared is not None
        y_ND = self.shared(x_ND, context)
        assert isinstance(y_ND, Tensor)
        return y_ND if self.shared_gate is None else self.shared_gate(x_ND).sigmoid() * y_ND

    def _fits(self, order_N: Tensor, choice_N: Tensor, counts_E: Tensor) -> Tensor:
        """Whether each choice is among its expert's first `capacity · N K / E`."""
        assert self.capacity is not None
        limit = math.ceil(self.capacity * len(choice_N) / self.n_experts)
        first_E = counts_E.cumsum(0) - counts_E
        return inverse(order_N) - first_E[choice_N] < limit

    def rebalance(self, load_E: Tensor) -> None:
        """Move the router's selection bias, if it has one, after an optimizer step."""
        self.router.rebalance(load_E, self.bias_rate)

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
