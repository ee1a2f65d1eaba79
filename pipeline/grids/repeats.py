"""Repeated data: how much a token is worth that is seen again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from data.corpus import CorpusConfig, MixtureConfig
from data.errors import DataError
from pipeline.grids.base import Grid, Point, Proposal, Sized, around
from pipeline.strict import Counts, Positive, Positives
from pipeline.tables import short


class RepeatsGrid(Grid):
    """Every size of ``params`` on every number of ``unique_tokens`` for every number of ``epochs``.

    The unique tokens are a random sample of the corpus's sequences; a larger sample holds the
    smaller ones. Of a mixture, each part gives its share of them by weight, so that every part is
    seen as often as the others. The fit is the data-constrained law (Muennighoff et al. 2023,
    2305.16264).
    """

    type: Literal["repeats"] = Field(description="the same tokens again")
    params: Positives = Field(description="sizes; the nearest shapes are taken")
    unique_tokens: Counts = Field(description="how many tokens may be seen, a random sample")
    epochs: Positives = Field(description="how often they are seen")
    max_epochs: Positive = Field(default=1e4, description="no run of more passes is planned")

    laws: ClassVar[Mapping[str, Mapping[str, str]]] = {"data-constrained": {}}

    @property
    def reach(self) -> tuple[float, float]:
        """Around the sizes."""
        return around(self.params)

    def check(self, corpus: CorpusConfig | MixtureConfig) -> None:
        """Raises DataError: a part of a mixture may not be seen as often as the others."""
        most = max(self.epochs)
        for number, part in enumerate(corpus.parts if isinstance(corpus, MixtureConfig) else []):
            if part.max_epochs is not None and part.max_epochs < most:
                raise DataError(
                    f"given {part.max_epochs:g}, allowed: null, or {most:g} (grid.epochs) and more",
                    ("corpus", "parts", number, "max_epochs"),
                )

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
