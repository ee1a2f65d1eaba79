"""How a model knows where a token stands. A scheme's constructor is its schema.

`learned` and `sinusoidal` add a vector to the embedding; `rope` turns queries and keys; `alibi`
adds a bias to attention's scores, and so does `relative`, which learns it; `disentangled` gives the
branch of that name vectors of distances; `none` leaves order to the mask and the recurrences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.context import Context
from models.norm import LayerNorm


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

    def bias(
        self,
        n_heads: int,
        query_T: Tensor,
        key_S: Tensor,
        dtype: torch.dtype,
        heads: slice = slice(None),
    ) -> Tensor:
        """Bias of shape (H, T, S), of some of the heads."""
        slope_H = torch.tensor(self.slopes(n_heads)[heads], device=query_T.device, dtype=dtype)
        distance_TS = (query_T[:, None] - key_S).abs().to(dtype)
        return -slope_H[:, None, None] * distance_TS


@dataclass(frozen=True, kw_only=True)
class Relative:
    """A learned bias per head and bucket of distances, the same in all layers of a stack (T5,
    1910.10683, section 2.1). Half of the buckets hold one distance each, the others widen up to
    `max_distance`; where later positions are seen, half of all are theirs."""

    buckets: int = 32
    max_distance: int = 128

    def bucket(self, behind: Tensor, causal: bool) -> Tensor:
        """The bucket of integer distances query - key."""
        n, first = (self.buckets, 0) if causal else (self.buckets // 2, (behind < 0).long())
        first = first * n
        distance = behind.clamp(min=0) if causal else behind.abs()
        exact = n // 2
        wide = (distance.clamp(min=1).float() / exact).log() / math.log(self.max_distance / exact)
        far = (exact + (wide * (n - exact)).long()).clamp(max=n - 1)
        return first + torch.where(distance < exact, distance, far)


@dataclass(frozen=True, kw_only=True)
class Disentangled:
    """A learned vector per distance up to ± `max_distance`, the same in all layers (DeBERTa,
    2006.03654, section 3.1); with `buckets`, that many on each side, exact up to half of them and
    then logarithmic (version 2). norm: LayerNorm of the vectors."""

    max_distance: int = 512
    buckets: int | None = None
    norm: bool = False

    @property
    def reach(self) -> int:
        """Vectors on each side of 0."""
        return self.buckets or self.max_distance

    def index(self, behind: Tensor) -> Tensor:
        """The row of integer distances query - key (equation 3)."""
        if self.buckets is not None:
            behind = self._bucket(behind, self.buckets // 2)
        return (behind + self.reach).clamp(0, 2 * self.reach - 1)

    def rows(self, length: int) -> tuple[int, int]:
        """The first and the last row that occur in a sequence."""
        ends = torch.tensor([1 - length, length - 1], device="cpu")
        first, last = self.index(ends).tolist()
        return first, last

    def _bucket(self, behind: Tensor, exact: int) -> Tensor:
        distance = behind.abs().clamp(min=exact).float()
        widest = torch.tensor((self.max_distance - 1) / exact, device=behind.device)
        far = ((distance / exact).log() / widest.log() * (exact - 1)).ceil() + exact
        return torch.where(behind.abs() <= exact, behind, (far * behind.sign()).long())


SCHEMES: dict[str, type[Any]] = {
    "none": Nothing,
    "rope": Rope,
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "alibi": Alibi,
    "relative": Relative,
    "disentangled": Disentangled,
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


class RelativeTable(nn.Embedding):
    """The biases (buckets, H) of a stack, all of whose attention looks back alone, or none."""

    def __init__(self, scheme: Relative, n_heads: int, causal: bool) -> None:
        super().__init__(scheme.buckets, n_heads)
        self.scheme, self.causal = scheme, causal

    def reset_parameters(self) -> None:
        """Nothing: set in `models.init`."""

    def between(self, offset: int, length: int) -> Tensor:
        """Biases (H, T, S) of queries [offset, offset + T) and the S = offset + T keys so far."""
        behind_TS = _behind(offset, length, self.weight.device)
        bias_TSH: Tensor = super().forward(self.scheme.bucket(behind_TS, self.causal))
        return bias_TSH.permute(2, 0, 1)


class DistanceTable(nn.Embedding):
    """The vectors (2 reach, D) of a stack."""

    def __init__(self, scheme: Disentangled, width: int, eps: float) -> None:
        super().__init__(2 * scheme.reach, width)
        self.scheme = scheme
        self.norm = LayerNorm(width, eps, bias=True) if scheme.norm else None

    def reset_parameters(self) -> None:
        """Nothing: set in `models.init`."""

    def between(self, offset: int, length: int) -> tuple[Tensor, Tensor]:
        """The vectors (R, D) of the distances that occur, and which of them each query and key
        have (T, S)."""
        index_TS = self.scheme.index(_behind(offset, length, self.weight.device))
        first, last = self.scheme.rows(length)
        rows_RD = self.weight[first : last + 1]
        return (rows_RD if self.norm is None else self.norm(rows_RD)), index_TS - first


def _behind(offset: int, length: int, device: torch.device) -> Tensor:
    """Distances query - key (T, S)."""
    key_S = torch.arange(offset + length, device=device)
    return key_S[offset:, None] - key_S


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
