"""How a model knows where a token stands. A scheme's constructor is its schema.

`learned` and `sinusoidal` add a vector to the embedding; `rope` turns queries and keys; `alibi`
adds a bias to attention's scores; `none` leaves order to the mask and the recurrences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.context import Context
from models.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """No positions."""


@dataclass(frozen=True, kw_only=True)
class Rope:
    """RoFormer (2104.09864), half-split layout; only the first `fraction` of a head turns.

    scaling stretches a trained context of `original_length` by `factor`: ntk raises theta so that
    the slowest wave is `factor` times as long (2309.00071, section 3.1); yarn slows waves longer
    than the context and keeps those that turn 32 times in it, sharpening scores (section 3.2).
    """

    theta: float = 10_000.0
    fraction: float = 1.0
    scaling: Literal["none", "ntk", "yarn"] = "none"
    factor: float = 1.0
    original_length: int = 2048

    def n_turned(self, head_width: int) -> int:
        """How many components of a head turn (even)."""
        return int(head_width * self.fraction) // 2 * 2

    def table(self, positions: Tensor, head_width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """cos and sin of shape (*positions, 1, n_turned/2), computed in float32 at least."""
        n = self.n_turned(head_width)
        wide = torch.promote_types(dtype, torch.float32)
        rates = self.rates(n, positions.device)
        angle = positions[..., None, None].to(wide) * rates
        size = 1 + 0.1 * math.log(self.factor) if self.scaling == "yarn" else 1.0
        return (angle.cos() * size).to(dtype), (angle.sin() * size).to(dtype)

    def rates(self, n: int, device: torch.device) -> Tensor:
        """Radians per position of the n/2 waves."""
        exponent = torch.arange(0, n, 2, device=device, dtype=torch.float32) / n
        theta = self.theta
        if self.scaling == "ntk" and n > 2:
            theta *= self.factor ** (n / (n - 2))
        rates = torch.tensor(theta, device=device) ** -exponent
        if self.scaling != "yarn":
            return rates
        low = max(math.floor(self._wave(32, n)), 0)
        high = min(math.ceil(self._wave(1, n)), n - 1)
        index = torch.arange(n // 2, device=device, dtype=torch.float32)
        slowed = ((index - low) / max(high - low, 1e-3)).clamp(0, 1)
        return rates * (1 - slowed) + rates / self.factor * slowed

    def _wave(self, turns: float, n: int) -> float:
        """The index of the wave that turns that often in the original context."""
        longest = self.original_length / (turns * 2 * math.pi)
        return n * math.log(longest) / (2 * math.log(self.theta))


@dataclass(frozen=True, kw_only=True)
class Learned:
    """One vector per position (1706.03762, section 3.5); sequences may not be longer."""

    max_length: int = 1024

    def module(self, width: int) -> nn.Module:
        """The table as a module from positions to vectors."""
        return LearnedTable(self.max_length, width)


@dataclass(frozen=True, kw_only=True)
class Sinusoidal:
    """Sines and cosines of geometric wavelengths (1706.03762, section 3.5), sines first."""

    theta: float = 10_000.0

    def module(self, width: int) -> nn.Module:
        """The table as a module without parameters."""
        return SinusoidalTable(self.theta, width)


@dataclass(frozen=True, kw_only=True)
class Alibi:
    """Train short, test long (2108.12409): the score falls linearly with distance, per head."""

    def slopes(self, n_heads: int) -> list[float]:
        """2^(-8h/H) for a power of two; otherwise also every other slope of the next power."""
        power = 2 ** math.floor(math.log2(n_heads))
        slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
        between = [2 ** (-4 * (2 * h + 1) / power) for h in range(n_heads - power)]
        return slopes + between

    def bias(self, n_heads: int, query_T: Tensor, key_S: Tensor, dtype: torch.dtype) -> Tensor:
        """Bias of shape (H, T, S)."""
        slope_H = torch.tensor(self.slopes(n_heads), device=query_T.device, dtype=dtype)
        distance_TS = (query_T[:, None] - key_S).abs().to(dtype)
        return -slope_H[:, None, None] * distance_TS


SCHEMES: dict[str, type[Any]] = {
    "none": Nothing,
    "rope": Rope,
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "alibi": Alibi,
}


def scheme(options: dict[str, Any]) -> Any:
    """The scheme that resolved recipe options describe."""
    rest = {name: value for name, value in options.items() if name != "type"}
    return SCHEMES[options["type"]](**rest)


class LearnedTable(nn.Embedding):
    """A learned vector per position."""

    def __init__(self, max_length: int, width: int) -> None:
        super().__init__(max_length, width)

    def reset_parameters(self) -> None:
        """Nothing: set in `models.init`."""

    def forward(self, positions: Tensor) -> Tensor:
        """Vectors (…, D) of integer positions; RecipeError past the table."""
        if positions.shape[-1] > self.num_embeddings:
            raise RecipeError(
                ("positions", "max_length"),
                self.num_embeddings,
                f"at least the sequence length {positions.shape[-1]}",
                "shorter than the sequence",
            )
        return super().forward(positions)


class SinusoidalTable(nn.Module):
    """A fixed vector per position."""

    def __init__(self, theta: float, width: int) -> None:
        super().__init__()
        self.theta, self.width = theta, width

    def forward(self, positions: Tensor) -> Tensor:
        """Vectors (…, D) of integer positions."""
        n = self.width // 2
        rate = self.theta ** -(torch.arange(n, device=positions.device) / n)
        angle = positions[..., None] * rate
        return torch.cat([angle.sin(), angle.cos()], -1)


def turn(x_BTHK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first components of each head by the table's angles."""
    half = cos.shape[-1]
    first, second, rest = x_BTHK.tensor_split((half, 2 * half), -1)
    parts = [first * cos - second * sin, second * cos + first * sin]
    return torch.cat([*parts, rest] if rest.shape[-1] else parts, -1)


def table_for(rope: Rope, x_BTHK: Tensor, head_width: int, context: Context) -> tuple[Tensor, ...]:
    """The table of a pass's positions, made once for plain ones and once per pass for others."""
    at, dtype = context.positions_BT, x_BTHK.dtype
    if at is None:
        length, device = x_BTHK.shape[1], x_BTHK.device
        return cached_table(rope, context.offset, length, head_width, device, dtype)
    return context.once((rope, head_width, dtype), lambda: rope.table(at, head_width, dtype))


@lru_cache(maxsize=64)
def cached_table(
    rope: Rope, start: int, length: int, head_width: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """The table of plain positions, made once."""
    return rope.table(torch.arange(start, start + length, device=device), head_width, dtype)
