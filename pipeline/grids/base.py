"""What every type of study is: variants of its architectures, and the points to train of each."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field, model_validator

from launch.config import RunConfig
from pipeline.strict import Count, Positive, Strict

Convention = Literal["total", "active", "non_embedding", "compute"]
Role = Literal["run", "trunk", "control"]
Label = str | int | float
REACH = 4.0
"""Shapes are looked for this far beyond the sizes that a grid asks for."""


class Sized(Protocol):
    """A model of one shape, with its exact cost (``pipeline.planner.Shape``)."""

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs per token."""

    def params(self, convention: str) -> int:
        """Parameters under a convention."""


@dataclass(frozen=True)
class Variant:
    """One architecture as a study trains it; ``family`` is its name in the file."""

    name: str
    family: str
    recipe: dict[str, Any]
    labels: Mapping[str, Label] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One run that is asked for, before its tokens are rounded to whole steps.

    ``name`` tells it from the others of its architecture; ``budget`` is the compute it is filed
    under. A run takes the rule's batch and learning rate for ``like`` tokens (its own by default)
    unless they are given; ``unique_tokens`` are all that it may see.
    """

    shape: Sized
    tokens: float
    name: str
    budget: float
    seed: int
    role: Role = "run"
    like: float | None = None
    schedule: Literal["cosine", "wsd"] | None = None
    unique_tokens: int | None = None
    learning_rate: float | None = None
    batch_tokens: float | None = None


@dataclass(frozen=True)
class Proposal:
    """A run that the law so far asks for: an architecture, its parameters and its FLOPs."""

    architecture: str
    params: float
    flops: float
    round: int


class Grid(Strict):
    """What the types share. A point that would take fewer than ``min_steps`` optimizer steps or
    more than ``max_epochs`` passes over the unique tokens is not planned, and named as such.
    """

    convention: Convention = Field(
        default="compute",
        description="what counts as a parameter; compute: what multiplies a token, all but the "
        "input embedding and idle experts",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0], min_length=1, description="every run once for each; several make replicates"
    )
    min_steps: Count = Field(default=100, description="no run of fewer steps is planned")
    max_epochs: Positive = Field(
        default=4.0, description="no run of more passes over the unique tokens is planned"
    )

    laws: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Laws of all variants of a family together, and the columns that they read as another's."""

    @property
    @abstractmethod
    def reach(self) -> tuple[float, float]:
        """The fewest and the most parameters that any point could want, generously."""

    @property
    def targets(self) -> tuple[float, ...]:
        """Budgets at which the laws are asked, ascending; empty: the largest run's."""
        return ()

    def variants(self, name: str, recipe: dict[str, Any]) -> Iterator[Variant]:
        """The architectures that are trained for one in the file."""
        yield Variant(name, name, recipe)

    @abstractmethod
    def points(self, shapes: Sequence[Sized], proposals: Sequence[Proposal]) -> Iterator[Point]:
        """The runs of one variant, whose ``shapes`` ascend."""

    @property
    def names(self) -> list[str]:
        """What points of any shapes would be called: as long as those of real shapes."""
        low, high = self.reach
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        shapes = [_Any(12345 * 10.0 ** (n - 4)) for n in decades]
        points = self.points(shapes, [Proposal("", low, 1.2345e10, 1)])
        return [f"{point.name}-s{point.seed}".replace("+", "") for point in points]

    def linked(
        self, runs: Sequence[RunConfig], folder: Callable[[RunConfig], Path]
    ) -> list[RunConfig]:
        """One variant's runs, with whatever they start from."""
        return list(runs)

    def nearest(self, shapes: Sequence[Sized], targets: Sequence[float]) -> list[Sized]:
        """Distinct shapes, each the nearest that is left to its target, ascending."""
        left, chosen = list(shapes), list[Sized]()
        for target in targets[: len(shapes)]:
            best = min(left, key=lambda shape: abs(math.log(self.size(shape) / target)))
            left.remove(best)
            chosen.append(best)
        return sorted(chosen, key=self.size)

    def size(self, shape: Sized) -> int:
        """Parameters by this study's convention."""
        return shape.params(self.convention)

    @model_validator(mode="after")
    def _distinct(self) -> Grid:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if isinstance(values, list) and len(set(values)) < len(values):
                raise ValueError(
                    f"{name}: given {values}, where one stands twice; each must differ"
                )
        return self


@dataclass(frozen=True)
class _Any:
    """A shape of which only the size matters."""

    size: float

    @property
    def flops_per_token(self) -> float:
        """By 6N."""
        return 6 * self.size

    def params(self, convention: str) -> int:
        """The same under any convention."""
        return round(self.size)


def around(params: Sequence[float]) -> tuple[float, float]:
    """The reach of a grid of given sizes."""
    return min(params) / REACH, max(params) * REACH
