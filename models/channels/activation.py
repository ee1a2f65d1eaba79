"""Activations by name; a gated one (2002.05202) multiplies a function of one half by the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal[
    "relu", "relu2", "gelu", "gelu_tanh", "silu", "glu", "reglu", "geglu", "geglu_tanh", "swiglu"
]

_gelu_tanh = partial(F.gelu, approximate="tanh")

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": F.silu,
}
_GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "glu": torch.sigmoid,
    "reglu": F.relu,
    "geglu": F.gelu,
    "geglu_tanh": _gelu_tanh,
    "swiglu": F.silu,
}


def is_gated(name: str) -> bool:
    """Whether the activation halves its input's width."""
    return name in _GATES


def activate(name: str, x: Tensor) -> Tensor:
    """Apply it; a gated one takes (gate, value) side by side in the last axis."""
    if name in _PLAIN:
        return _PLAIN[name](x)
    if name == "swiglu" and not torch.compiler.is_compiling():  # which fuses the plain form
        y: Tensor = _SwiGlu.apply(x)  # type: ignore[no-untyped-call]
        return y
    gate, value = x.chunk(2, -1)
    return _GATES[name](gate) * value


class _SwiGlu(torch.autograd.Function):
    """Keeps its input alone, and writes both halves of the gradient into one tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, value = x.chunk(2, -1)
        return F.silu(gate).mul_(value)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate, value = x.chunk(2, -1)
        dx = torch.empty_like(x)
        dgate, dvalue = dx.chunk(2, -1)
        torch.ops.aten.silu_backward.grad_input(dy * value, gate, grad_input=dgate)
        torch.mul(dy, F.silu(gate), out=dvalue)
        return dx


def hidden_width(width: int, activation: str, expansion: float | None, multiple: int) -> int:
    """expansion · width rounded up; by default 4, or 8/3 for a gated one (equal parameters)."""
    if expansion is None:
        expansion = 8 / 3 if is_gated(activation) else 4.0
    return -(-int(expansion * width) // multiple) * multiple
