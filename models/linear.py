"""A linear map that knows its role in the initialisation and its FLOPs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

Role = Literal["hidden", "out", "head", "zero"]


class Linear(nn.Linear):
    """`role`: hidden (into a branch), out (a branch's projection back to the residual stream),
    head (to the vocabulary), zero (starts at zero). Left unset until `Model.init_weights`."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = False, role: Role = "hidden") -> None:
        super().__init__(n_in, n_out, bias=bias)
        self.role: Role = role

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

    def reset_parameters(self) -> None:
        """Nothing: weights are set by name and seed in `models.init`."""

    @property
    def flops(self) -> int:
        """Forward FLOPs per token."""
        return 2 * self.in_features * self.out_features
