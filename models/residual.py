"""The residual stream: where the norms stand around a branch, and layers of branches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models.branch import Aux, Branch
from models.context import Context, State
from models.norm import norm
from models.slicing import RELAYED
from models.spec import NormSpec


class Residual(nn.Module):
    """x + f(x) with norms placed as `NormSpec` says; gives the new x and the branch's aux."""

    def __init__(self, branch: Branch, width: int, spec: NormSpec) -> None:
        super().__init__()

        def make() -> nn.Module:
            return norm(spec.type, width, spec.eps, spec.bias)

        normed = spec.placement in ("pre", "peri", "parallel") and not branch.reads_stream
        self.before = make() if normed else None
        self.branch = branch
        self.after = make() if spec.placement in ("peri", "output") else None
        self.outside = make() if spec.placement == "post" else None

    def update(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Aux]:
        """What the branch adds to the stream."""
        x_BTD = x_BTD if self.before is None else self.before(x_BTD)
        relays = context.slices is not None and self.branch.kind in RELAYED
        result = _relayed(self.branch, x_BTD, context) if relays else self.branch(x_BTD, context)
        y_BTD, aux = result if isinstance(result, tuple) else (result, {})
        return (y_BTD if self.after is None else self.after(y_BTD)), aux

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Aux]:
        """One step of the stream."""
        y_BTD, aux = self.update(x_BTD, context)
        x_BTD = x_BTD + y_BTD
        return (x_BTD if self.outside is None else self.outside(x_BTD)), aux


def _relayed(branch: Branch, x_BTD: Tensor, context: Context) -> Tensor:
    """A recurrence over a slice of each row, from the state of the slice before. When activations
    are computed again nothing is exchanged: the states that came are kept."""
    slices, place = context.slices, context.place
    assert slices is not None
    is_again = context.has(place)
    if not is_again:
        x_BTD, received = slices.receive(place, x_BTD)
    context.state = state = dict(context.once(place, lambda: received))
    y_BTD = branch(x_BTD, context)
    assert isinstance(y_BTD, Tensor)
    return slices.send(place, x_BTD, y_BTD, state, is_again)


Slots = list[State]


class Layer(nn.Module):
    """Residuals one after the other, or side by side. A shared residual is registered as one of the
    `residuals` of the first layer that uses it, and only referred to by the others."""

    def __init__(self, residuals: Sequence[Residual], owned: Sequence[bool], parallel: bool):
        super().__init__()
        self.parallel = parallel
        self.residuals = nn.ModuleList(
            residual for residual, mine in zip(residuals, owned, strict=True) if mine
        )
        self.uses = tuple(residuals)  # a tuple is not registered: no duplicates in the state dict

    def forward(
        self, x_BTD: Tensor, context: Context, slots: Slots | None = None
    ) -> tuple[Tensor, Aux]:
        """One layer of the stream; `slots` are its branches' states."""
        input_BTD, collected = x_BTD, {}
        if context.embedding_BTD is None:
            context.embedding_BTD = x_BTD
        for i, residual in enumerate(self.uses):
            context.state = None if slots is None else slots[i]
            context.place = (id(self), i)
            if self.parallel:
                y_BTD, aux = residual.update(input_BTD, context)
                x_BTD = x_BTD + y_BTD
            else:
                x_BTD, aux = residual(x_BTD, context)
            collected.update(aux)
        return x_BTD, collected
