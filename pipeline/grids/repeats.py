"""Repeated data: how much a token is worth that is seen again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from pipeline.grids.base import Grid, Point, Proposal, Sized, around
from pipeline.strict import Counts, Positive, Positives
from pipeline.tables import short


class RepeatsGrid(Grid):
    """Every size of ``params`` on every number of ``unique_tokens`` for every number of ``epochs``.

    The unique tokens are a random sample of the corpus's sequences; a larger sample holds the
    smaller ones. The fit is the data-constrained law (Muennighoff et al. 2023, 2305.16264).
    """

    type: Literal["repeats"]
    params: Positives
    unique_tokens: Counts
    epochs: Positives
    max_epochs: Positive = 1e4

    laws: ClassVar[Mapping[str, Mapping[str, str]]] = {"data-constrained": {}}

    @property
    def reach(self) -> tuple[float, float]:
        """Around the sizes."""
        return around(self.params)

    def points(self, shapes: Sequence[Sized], proposals: Sequence[Proposal]) -> Iterator[Point]:
        """By size, unique tokens, epochs and seed."""
        for shape in self.nearest(shapes, sorted(self.params)):
            for unique in sorted(self.unique_tokens):
                for epochs in sorted(self.epochs):
                    tokens = unique * epochs
                    name = f"{short(self.size(shape))}-{short(unique)}-{epochs:g}x"
                    budget = tokens * shape.flops_per_token
                    for seed in self.seeds:
                        yield Point(shape, tokens, name, budget, seed, unique_tokens=unique)
