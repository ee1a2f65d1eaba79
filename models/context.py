"""What a branch may know beside its input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
State = dict[str, Tensor]


@dataclass
class Context:
    """One forward pass of a stack. `segments_BT` numbers the documents packed in a row, in runs;
    `positions_BT` restart in each; `offset` is how many positions the states already hold; `state`
    is the running branch's own slot, or None. `source_BSD` is an encoder's output, `relative` what
    the stack's table of distances gives, if its positions are such; `embedding_BTD` is what the
    first layer reads."""

    segments_BT: Tensor | None = None
    positions_BT: Tensor | None = None
    offset: int = 0
    state: State | None = None
    source_BSD: Tensor | None = None
    source_segments_BS: Tensor | None = None
    relative: Any = None
    embedding_BTD: Tensor | None = None
    _memo: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """`make()` at the first ask in this pass, shared by all layers afterwards."""
        if key not in self._memo:
            self._memo[key] = make()
        value: T = self._memo[key]
        return value

    @property
    def starts_BT(self) -> Tensor | None:
        """True where a document begins (not at t=0, which follows the state if there is one)."""
        if self.segments_BT is None:
            return None
        return self.once("starts", lambda: _starts(self.segments_BT))


def _starts(segments_BT: Tensor | None) -> Tensor:
    assert segments_BT is not None
    starts = torch.zeros_like(segments_BT, dtype=torch.bool)
    starts[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    return starts
