"""What a branch may know beside its input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from models.engines.slices import Slices

T = TypeVar("T")
State = dict[str, Tensor]


@dataclass
class Context:
    """One forward pass of a stack. `segments_BT` numbers the documents packed in a row, in runs;
    `positions_BT` restart in each; `offset` is how many positions the states already hold; `state`
    is the running branch's own slot, or None. `source_BSD` is an encoder's output, `relative` what
    the stack's table of distances gives, if its positions are such; `embedding_BTD` is what the
    first layer reads. With `slices` all of these are of this rank's part of the rows alone, and
    `place` says where in the model a branch stands."""

    segments_BT: Tensor | None = None
    positions_BT: Tensor | None = None
    offset: int = 0
    state: State | None = None
    source_BSD: Tensor | None = None
    source_segments_BS: Tensor | None = None
    relative: Any = None
    embedding_BTD: Tensor | None = None
    slices: Slices | None = None
    place: tuple[int, int] = (0, 0)
    _memo: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """`make()` at the first ask in this pass, shared by all layers afterwards."""
        if key not in self._memo:
            self._memo[key] = make()
        value: T = self._memo[key]
        return value

    def has(self, key: Any) -> bool:
        """Whether `once` was asked for this already."""
        return key in self._memo

    @property
    def starts_BT(self) -> Tensor | None:
        """True where a document begins (not at a row's beginning, which follows the state if there
        is one)."""
        if self.segments_BT is None:
            return None
        return self.once("starts", self._starts)

    def _starts(self) -> Tensor:
        known = self.segments_since(1)
        assert known is not None
        starts = known[:, 1:] != known[:, :-1]
        if self.slices is None or self.slices.rank == 0:
            starts[:, 0] = False
        return starts

    def segments_since(self, reach: int) -> Tensor | None:
        """`segments_BT` with those of `reach` positions before in front, -1 before the row."""
        if self.segments_BT is None:
            return None
        if self.slices is None:
            return F.pad(self.segments_BT, (reach, 0), value=-1)
        length = self.segments_BT.shape[1]
        row_BT = self.whole("segments_BT")
        assert row_BT is not None
        row_BT = F.pad(row_BT, (reach, 0), value=-1)
        return row_BT[:, self.slices.rank * length :][:, : reach + length]

    def meet(self) -> None:
        """Gather what later needs whole rows, before ranks that share them wait for each other."""
        if self.slices is not None:
            for name in ("segments_BT", "positions_BT"):
                self.whole(name)

    def whole(self, name: str) -> Tensor | None:
        """`segments_BT` or `positions_BT` of whole rows."""
        slices, own_BT = self.slices, cast("Tensor | None", getattr(self, name))
        if slices is None or own_BT is None:
            return own_BT
        return self.once(name, lambda: slices.gather(own_BT))
