"""The types of study. Each is a model of its YAML that yields the points to train."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.grids.adaptive import AdaptiveGrid
from pipeline.grids.base import Convention, Point, Proposal, Role, Variant
from pipeline.grids.hybrid import HybridGrid
from pipeline.grids.isoflop import IsoflopGrid
from pipeline.grids.ladder import LadderGrid
from pipeline.grids.moe import MoeGrid
from pipeline.grids.probe import ProbeGrid
from pipeline.grids.repeats import RepeatsGrid

__all__ = [
    "AdaptiveGrid",
    "Convention",
    "Grid",
    "IsoflopGrid",
    "LadderGrid",
    "MoeGrid",
    "Point",
    "ProbeGrid",
    "Proposal",
    "RepeatsGrid",
    "Role",
    "Variant",
]

Grid = Annotated[
    IsoflopGrid | LadderGrid | ProbeGrid | MoeGrid | HybridGrid | RepeatsGrid | AdaptiveGrid,
    Field(discriminator="type"),
]
