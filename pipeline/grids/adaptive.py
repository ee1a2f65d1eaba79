"""Adaptive studies: after each round the law says which runs would teach it most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.grids.base import Point, Proposal, Sized
from pipeline.grids.isoflop import BudgetGrid
from pipeline.strict import Count, Flops, Positive


class AdaptiveGrid(BudgetGrid):
    """An IsoFLOP grid, then rounds of ``round`` runs that the law so far proposes.

    The question is ``target`` (optimal params or tokens, or the loss there) at ``at`` FLOPs; it is
    answered once the ends of its 95 % interval are at most a factor ``interval`` apart. Rounds end
    there, or once ``spend`` FLOPs or ``hours`` of training over all slots are used. Runs are
    proposed between the smallest budget and ``up_to`` FLOPs (by default the largest budget).
    """

    type: Literal["adaptive"] = Field(description="rounds of runs that the law asks for")
    target: Literal["params", "tokens", "loss"] = Field(
        default="params", description="what is asked: the optimal size or tokens, or the loss there"
    )
    at: Flops = Field(description="the budget that is asked about, in training FLOPs")
    interval: Annotated[float, Field(gt=1)] = Field(
        default=1.5, description="answered once the ends of the 95% interval are so near, a factor"
    )
    round: Count = Field(default=4, description="runs that are proposed at once")
    spend: Positive | None = Field(
        default=None, description="training FLOPs of all rounds together; this or `hours`"
    )
    hours: Positive | None = Field(
        default=None, description="hours of training over all slots; this or `spend`"
    )
    up_to: Flops | None = Field(
        default=None, description="FLOPs of the largest proposed run; null: the largest budget"
    )

    @property
    def largest(self) -> float:
        """FLOPs that one proposed run may cost."""
        return self.up_to or max(self.budgets)

    @property
    def reach(self) -> tuple[float, float]:
        """Wide enough for the largest run that may be proposed."""
        low, high = super().reach
        return low, high * max(1.0, (self.largest / max(self.budgets)) ** 0.5)

    @model_validator(mode="after")
    def _ends(self) -> AdaptiveGrid:
        if self.spend is None and self.hours is None:
            raise ValueError("spend: missing; an adaptive study needs spend (FLOPs) or hours")
        return self

    def points(self, shapes: Sequence[Sized], proposals: Sequence[Proposal]) -> Iterator[Point]:
        """The grid, then every proposal, again under the next seed where its run is planned."""
        planned = list(super().points(shapes, ()))
        for proposal in proposals:
            [shape] = self.nearest(shapes, [proposal.params])
            twins = [p.seed for p in planned if p.shape == shape and p.budget == proposal.flops]
            seed = max(twins) + 1 if twins else self.seeds[0]
            planned.append(self.point(shape, proposal.flops, seed))
        yield from planned
