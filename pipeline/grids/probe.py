"""Probes: the learning rate and the batch that suit each size and duration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal

from pydantic import Field

from pipeline.grids.base import Grid, Point, Proposal, Sized, around
from pipeline.strict import Positives
from pipeline.tables import short


class ProbeGrid(Grid):
    """Every learning rate and batch for every size and duration.

    The fit writes ``rule.json``: the best of each as a power law of parameters and tokens, which
    another study uses as ``rule: {name: measured, study: …}``, for each architecture its own
    (``pipeline.probes``).
    """

    type: Literal["probe"] = Field(description="learning rates and batches")
    params: Positives = Field(description="sizes; the nearest shapes are taken")
    tokens_per_parameter: Positives = Field(
        default=[20.0], description="durations, as a multiple of the size"
    )
    learning_rates: Positives = Field(description="every one is tried at every batch")
    batch_tokens: Positives = Field(description="batches, in tokens")

    @property
    def reach(self) -> tuple[float, float]:
        """Around the sizes."""
        return around(self.params)

    def points(self, shapes: Sequence[Sized], proposals: Sequence[Proposal]) -> Iterator[Point]:
        """By size, duration, batch, rate and seed."""
        settings = list(product(sorted(self.batch_tokens), sorted(self.learning_rates)))
        for shape in self.nearest(shapes, sorted(self.params)):
            size = self.size(shape)
            for ratio in sorted(self.tokens_per_parameter):
                tokens = ratio * size
                for batch, rate in settings:
                    for seed in self.seeds:
                        yield Point(
                            shape=shape,
                            tokens=tokens,
                            name=f"{short(size)}-{ratio:g}x-b{short(batch)}-lr{rate:g}",
                            budget=tokens * shape.flops_per_token,
                            seed=seed,
                            learning_rate=rate,
                            batch_tokens=batch,
                        )
