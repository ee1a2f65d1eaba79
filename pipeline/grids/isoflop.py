"""IsoFLOP grids: at each budget, models of several sizes that spend it exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from pipeline.grids.base import REACH, Grid, Point, Proposal, Sized
from pipeline.strict import Flops, Positive
from pipeline.tables import short


class BudgetGrid(Grid):
    """At each budget, ``sizes`` shapes, a factor ``spread`` on both sides of the expected optimum.

    The optimum is expected where tokens / parameters = ``tokens_per_parameter``.
    """

    budgets: list[Flops] = Field(min_length=1, max_length=64, description="training FLOPs, exact")
    sizes: Annotated[int, Field(ge=1, le=64)] = Field(
        default=5, description="shapes for each budget and architecture"
    )
    spread: Annotated[float, Field(gt=1, le=1000)] = Field(
        default=3.0, description="a factor of size on each side of the expected optimum"
    )
    tokens_per_parameter: Positive = Field(
        default=20.0, description="where the optimum is expected"
    )

    @property
    def reach(self) -> tuple[float, float]:
        """By C = 6ND."""
        expected = [math.sqrt(budget / (6 * self.tokens_per_parameter)) for budget in self.budgets]
        return min(expected) / self.spread / REACH, max(expected) * self.spread * REACH

    @property
    def targets(self) -> tuple[float, ...]:
        """Every budget."""
        return tuple(sorted(self.budgets))

    def points(self, shapes: Sequence[Sized], proposals: Sequence[Proposal]) -> Iterator[Point]:
        """By budget, size and seed."""
        for budget in self.targets:
            for shape in self._sizes(shapes, budget):
                for seed in self.seeds:
                    yield self.point(shape, budget, seed)

    def point(self, shape: Sized, budget: float, seed: int) -> Point:
        """The run that spends ``budget`` on this shape."""
        name = f"{budget:.3g}-{short(self.size(shape))}"
        return Point(shape, budget / shape.flops_per_token, name, budget, seed)

    def _sizes(self, shapes: Sequence[Sized], budget: float) -> list[Sized]:
        """Distinct shapes, nearest to a geometric spread around the expected optimum."""

        def tokens_per_parameter(shape: Sized) -> float:
            return budget / shape.flops_per_token / self.size(shape)

        expected = min(
            shapes,
            key=lambda s: abs(math.log(tokens_per_parameter(s) / self.tokens_per_parameter)),
        )
        exponents = (
            [2 * i / (self.sizes - 1) - 1 for i in range(self.sizes)] if self.sizes > 1 else [0]
        )
        return self.nearest(shapes, [self.size(expected) * self.spread**e for e in exponents])


class IsoflopGrid(BudgetGrid):
    """The grid alone, for each architecture as it is."""

    type: Literal["isoflop"] = Field(description="several sizes at each budget")
