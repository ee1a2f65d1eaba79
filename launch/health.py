"""What stands out against its like: layers by their gradients, ranks by their pace."""

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

FACTOR = 1000.0
"""How far from the layers' median norm is unhealthy."""


class Flag(NamedTuple):
    layer: str
    norm: float
    ratio: float
    what: Literal["vanishing", "exploding"]


STRAGGLING = 1.5
"""Times the seconds of a typical rank."""


def stragglers(seconds: list[float]) -> dict[int, float]:
    """Ranks whose own part of the work took too long, with how many times a typical rank's."""
    typical = statistics.median_low(seconds)
    ratios = {rank: taken / typical for rank, taken in enumerate(seconds)} if typical else {}
    return {rank: ratio for rank, ratio in ratios.items() if ratio > STRAGGLING}


def by_layer(norms: Mapping[str, float]) -> dict[str, float]:
    """Norms of named parameters, as norms of `layers.3`, `encoder.layers.3`, `embedding`, `head`
    and so on."""
    squares: dict[str, float] = {}
    for name, norm in norms.items():
        parts = name.split(".")
        depth = parts.index("layers") + 2 if "layers" in parts else 1
        layer = ".".join(parts[:depth])
        squares[layer] = squares.get(layer, 0.0) + norm**2
    return {layer: math.sqrt(square) for layer, square in squares.items()}


def flags(layers: Mapping[str, float]) -> Iterator[Flag]:
    """The stacks' layers, embedding and head aside, that stand out by `FACTOR` from the median."""
    stack = {layer: norm for layer, norm in layers.items() if "layers." in layer}
    median = statistics.median(stack.values()) if stack else 0.0
    for layer, norm in stack.items() if median else ():
        ratio = norm / median
        if ratio < 1 / FACTOR:
            yield Flag(layer, norm, ratio, "vanishing")
        elif ratio > FACTOR:
            yield Flag(layer, norm, ratio, "exploding")
