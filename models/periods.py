"""What a deep model holds, counted on shallow ones.

A period of the pattern is like the one before it from the third on: the first may own what others
share, the second be the first to use what it made. So a count over layers is a constant and a part
per period, whatever the depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from models.recipe import ModelConfig
from models.spec import Encoder, StackSpec

Count = Callable[[ModelConfig], tuple[int, ...]]


def by_periods(config: ModelConfig, count: Count) -> tuple[int, ...]:
    """`count(config)`, from its members of two and of three periods where that is less work."""
    step, one = _period(config)
    two = one + (config.n_layers - one) % step + step
    three = two + step
    if config.n_layers <= two + three:
        return count(config)
    shallow, deeper = (count(replace(config, n_layers=n)) for n in (two, three))
    more = (config.n_layers - two) // step
    return tuple(a + more * (b - a) for a, b in zip(shallow, deeper, strict=True))


def _period(config: ModelConfig) -> tuple[int, int]:
    """The layers by which the depth of a config can grow, and the fewest that its stacks have."""
    stacks: list[StackSpec] = [config.recipe]
    encoder = config.recipe.encoder
    if isinstance(encoder, Encoder) and encoder.n_layers is None:
        stacks.append(encoder)
    step = math.lcm(*(len(stack.layers) for stack in stacks))
    return step, max(len(stack.first_layers) + len(stack.layers) for stack in stacks)
