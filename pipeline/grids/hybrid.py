"""Hybrid-ratio grids: how many layers of one kind to one of the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.grids.base import Label, Variant
from pipeline.grids.isoflop import BudgetGrid

Ratio = Annotated[str, Field(pattern=r"^[0-9]{1,2}:[0-9]{1,2}$")]


class HybridGrid(BudgetGrid):
    """An IsoFLOP grid for every ratio of the pattern's two kinds of layer, the first to the second.

    ``"7:1"`` is seven of the first and one of the second, spread evenly; ``"1:0"`` the first alone.
    An architecture with one kind of layer is trained once, as it is.
    """

    type: Literal["hybrid"] = Field(description="ratios of two kinds of layer")
    ratios: list[Ratio] = Field(
        min_length=1, max_length=64, description='of the pattern\'s two kinds, such as "7:1"'
    )

    def variants(self, name: str, recipe: dict[str, Any]) -> Iterator[Variant]:
        """``hybrid`` as ``hybrid-7to1`` and so on."""
        kinds = list(dict.fromkeys(str(recipe.get("pattern") or "").split()))
        if len(kinds) < 2:
            yield Variant(name, name, recipe)
            return
        if len(kinds) > 2:
            raise ValueError(
                f"architectures.{name}: given a pattern with {len(kinds)} kinds of layer, "
                f"allowed with grid.type hybrid: 2"
            )
        for ratio in self.ratios:
            first, second = map(int, ratio.split(":"))
            if not first + second:
                raise ValueError(f"grid.ratios: given '{ratio}', allowed: at least one layer")
            pattern = _spread(kinds, first, second)
            labels: dict[str, Label] = {"ratio": ratio, "first_share": first / (first + second)}
            variant = f"{name}-{first}to{second}"
            yield Variant(variant, name, _used(recipe | {"pattern": pattern}), labels)


def _spread(kinds: list[str], first: int, second: int) -> str:
    period = first + second
    marks = [(i + 1) * second // period > i * second // period for i in range(period)]
    return " ".join(kinds[mark] for mark in marks)


def _used(recipe: dict[str, Any]) -> dict[str, Any]:
    """Without the options of branches that the pattern no longer names."""
    pattern = f"{recipe.get('prefix') or ''} {recipe['pattern']}"
    names = set(pattern.replace("+", " ").replace("&", " ").split())
    branches = recipe.get("branches") or {}
    return recipe | {"branches": {key: branches[key] for key in branches if key in names}}
