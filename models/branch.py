"""The residual branch: a map (B,T,D) to (B,T,D), its schema and its cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from models.errors import RecipeError
from models.linear import Linear, Role

if TYPE_CHECKING:
    from models.context import Context

Aux = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What the recipe tells every branch: the shape around it, never the branch's own options."""

    width: int
    n_layers: int
    n_branches: int
    layer: int = 0
    positions: dict[str, Any] = field(default_factory=lambda: {"type": "none"})
    norm_eps: float = 1e-5
    base_width: int | None = None
    """muP's, under that scheme."""
    shared: dict[str, nn.Module] = field(default_factory=dict)
    """Modules of the stack that several branches have a part in; the first to ask owns one."""

    def score_scale(self, width_of: Callable[[int], float]) -> float:
        """Of products of queries and keys that are K = `width_of(D)` wide in a model of width D:
        1/√K. Under muP √K_b/K with K_b at the base width, since products of what was trained grow
        as K and not as its root (Tensor Programs V, 2203.03466, definition 4.1)."""
        base = own = width_of(self.width)
        if self.base_width is not None:
            with suppress(RecipeError):  # nor is it trained then: `ModelConfig.check_rates`
                base = width_of(self.base_width)
        scale: float = own**-0.5 * (base / own) ** 0.5
        return scale


class Branch(nn.Module):
    """Base of every mixer. The keyword-only parameters of a subclass's constructor are its schema.

    `forward(x_BTD, context)` gives y_BTD, or (y_BTD, aux) with raw auxiliary losses and statistics.
    With a `context.state` it continues from that state and updates it.
    """

    derived: ClassVar[tuple[str, ...]] = ()
    """Options that only say how others, or initial weights, come about."""
    reads_stream: ClassVar[bool] = False
    """Whether it takes the stream itself, and no norm of it."""
    kind: ClassVar[str] = ""
    """How a pattern calls it."""
    aux_weights: dict[str, float]

    def __init_subclass__(cls, *, name: str | None = None) -> None:
        """`name` is how a pattern calls the class; `models.registry` reads it from the source."""
        super().__init_subclass__()
        cls.kind = name or cls.kind

    def __init__(self) -> None:
        super().__init__()
        self.aux_weights = {}

    if TYPE_CHECKING:

        def __call__(self, x_BTD: Tensor, context: Context) -> Tensor | tuple[Tensor, Aux]: ...

    def matmul_flops(self) -> int:
        """Forward FLOPs per token of the projections."""
        return sum(module.flops for module in self.modules() if isinstance(module, Linear))

    def source_matmul_flops(self) -> int:
        """Those of projections of the source, per token of it."""
        return 0

    def mixing_flops(self, length: int) -> int:
        """Forward FLOPs of everything between positions, for one sequence of `length` tokens."""
        return 0

    def source_mixing_flops(self, length: int, source: int) -> int:
        """The same between `length` positions and those of a source."""
        return 0

    def idle_params(self) -> int:
        """Parameters that a token does not use."""
        return 0

    def rebalance(self, load_E: Tensor) -> None:
        """Follow the load of experts, where there is something to move."""

    def experts(self) -> Iterator[tuple[str, nn.Parameter, Role, int]]:
        """Stacked weights (E, …) with their name, role and fan-in."""
        return iter(())

    def matrices(self) -> Iterator[tuple[str, nn.Parameter, int]]:
        """Matrices that are no `Linear`, or stacks of such, with their name and fan-in."""
        return ((name, weight, fan_in) for name, weight, _, fan_in in self.experts())

    def expert_ids(self) -> range:
        """Which experts the stacked weights hold."""
        return range(0)

    @torch.no_grad()
    def init_special(self, generator: torch.Generator) -> None:
        """Set the parameters that are neither a `Linear`, a norm nor a bias."""
