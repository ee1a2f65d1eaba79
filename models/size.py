"""From a recipe and a number of parameters, FLOPs per token, layers or a width to a shape.

The rule: width is a multiple of a power of two that grows with it (8 up to width 127, 16 up to 255,
128 from 1,024 up), so that kernels fit and a step is at most an eighth or so; depth is the recipe's
`coefficient · width^exponent`, rounded down or up to a multiple of its pattern, which fills the
steps between widths. With the default 0.5 · √width, 768 has 13 or 14 layers (GPT-2: 12) and 4096
has 32 or 33 (LLaMA 7B: 32).

A `vocab_size` here is the text's; the ids that the objective adds (a mask, sentinels) come on top.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice, takewhile

from models.errors import RecipeError
from models.recipe import ModelConfig, Recipe
from models.spec import DepthSpec

CONVENTIONS = ("total", "active", "non_embedding", "compute")
FLOPS = "flops_per_token"
"""Training FLOPs per token, which a shape can be looked for by as well."""


def shapes(
    recipe: Recipe, *, vocab_size: int, low: float, high: float, convention: str = "compute"
) -> list[ModelConfig]:
    """Every shape of the rule with `low` to `high` parameters, ascending. Widths that the recipe
    cannot be built at (heads that do not divide, say) are left out; RecipeError if all are."""

    def size(config: ModelConfig) -> int:
        return params_of(config, convention)

    rungs = takewhile(lambda rung: size(rung[0]) <= high, _rungs(recipe, vocab_size))
    found = [config for rung in rungs for config in rung if low <= size(config) <= high]
    return sorted(found, key=size)


def check(recipe: Recipe, vocab_size: int) -> None:
    """RecipeError if the rule has no shape of this recipe; needs no torch."""
    middle = next(islice(widths(), 40, None))
    if not _builds(recipe, middle, vocab_size):
        _rung(recipe, middle, vocab_size)  # raises what is wrong


def nearest(
    recipe: Recipe,
    *,
    vocab_size: int,
    target: float,
    convention: str = "compute",
    sequence_length: int = 1,
) -> ModelConfig:
    """The shape whose size is nearest to `target` by ratio; `error` says how near. FLOPs per token
    are those at `sequence_length`."""
    check(recipe, vocab_size)
    known = [width for width in islice(widths(), 400) if _builds(recipe, width, vocab_size)]

    def size(config: ModelConfig) -> float:
        return size_of(config, convention, sequence_length)

    above = bisect_left(known, target, key=lambda w: size(_rung(recipe, w, vocab_size)[0]))
    around = known[max(0, above - 3) : above + 2]
    candidates = [config for width in around for config in _rung(recipe, width, vocab_size)]
    return min(candidates, key=lambda config: abs(math.log(size(config) / target)))


def with_width(recipe: Recipe, width: int, vocab_size: int) -> ModelConfig:
    """A width at the depth that is nearest to the rule's; RecipeError if it cannot be built."""
    rung = _rung(recipe, width, vocab_size)
    return min(rung, key=lambda config: abs(config.n_layers - _ideal(recipe, width)))


def with_depth(recipe: Recipe, n_layers: int, vocab_size: int) -> ModelConfig:
    """A depth at the width of the rule whose own depth is nearest to it; RecipeError if the pattern
    does not tile it."""
    recipe.at(width=next(islice(widths(), 40, None)), n_layers=n_layers, vocab_size=vocab_size)
    known = [width for width in islice(widths(), 400) if _builds(recipe, width, vocab_size)]
    width = min(known, key=lambda width: abs(_ideal(recipe, width) - n_layers))
    return recipe.at(width=width, n_layers=n_layers, vocab_size=vocab_size + recipe.task.special)


def error(
    config: ModelConfig, target: float, convention: str = "compute", sequence_length: int = 1
) -> float:
    """Relative error of a shape's size against a target."""
    return size_of(config, convention, sequence_length) / target - 1


def size_of(config: ModelConfig, convention: str, sequence_length: int = 1) -> float:
    """Parameters under one of `CONVENTIONS`, or `FLOPS`."""
    if convention != FLOPS:
        return params_of(config, convention)
    from models.costs import cost

    flops: float = cost(config, sequence_length).training_flops_per_token
    return flops


def params_of(config: ModelConfig, convention: str = "compute") -> int:
    """Parameters of a config under one of `CONVENTIONS`."""
    if convention not in CONVENTIONS:
        raise RecipeError(("convention",), convention, CONVENTIONS, "unknown convention")
    from models.costs import cost

    size: int = getattr(cost(config, 1).params, convention)
    return size


def depths(recipe: Recipe, width: int) -> tuple[int, ...]:
    """Layers at a width by the recipe's rule, rounded both ways to periods of its pattern; those of
    the prefix come on top."""
    period, first = len(recipe.layers), len(recipe.first_layers)
    periods = math.floor((_ideal(recipe, width) - first) / period)
    rounded = (periods * period, (periods + 1) * period) if periods else (period,)
    return tuple(first + n for n in rounded)


def _ideal(recipe: Recipe, width: int) -> float:
    """The rule's number of layers, those of the prefix included."""
    assert isinstance(recipe.depth, DepthSpec)
    layers: float = recipe.depth.coefficient * width**recipe.depth.exponent
    return len(recipe.first_layers) + layers


def widths() -> Iterator[int]:
    """8, 12, 16, 24, 32, …: steps of 8 from 16, doubling by octaves from 128, at most 128."""
    width = 8
    while True:
        yield width
        width += 4 if width < 16 else min(128, max(8, 1 << (width.bit_length() - 4)))


def _rungs(recipe: Recipe, vocab_size: int) -> Iterator[list[ModelConfig]]:
    check(recipe, vocab_size)
    return (
        _rung(recipe, width, vocab_size) for width in widths() if _builds(recipe, width, vocab_size)
    )


def _builds(recipe: Recipe, width: int, vocab_size: int) -> bool:
    try:
        return bool(_rung(recipe, width, vocab_size))
    except RecipeError:
        return False


def _rung(recipe: Recipe, width: int, vocab_size: int) -> list[ModelConfig]:
    return [
        recipe.at(width=width, n_layers=n_layers, vocab_size=vocab_size + recipe.task.special)
        for n_layers in depths(recipe, width)
    ]
