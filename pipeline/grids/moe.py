"""Grids of mixtures of experts: how many, how many a token takes, how fine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.grids.base import Variant
from pipeline.grids.isoflop import BudgetGrid
from pipeline.strict import Counts

GATED = ("glu", "geglu", "swiglu")


class MoeGrid(BudgetGrid):
    """An IsoFLOP grid for every combination of ``experts``, ``top_k`` and ``granularity``.

    ``granularity`` G cuts each expert into G of a G-th of its width, of which a token takes G times
    as many (Krajewski et al. 2024, 2402.07871): E·G experts, K·G a token, at equal parameters and
    FLOPs but for the router. An architecture without experts is trained once, as it is.
    """

    type: Literal["moe"] = Field(description="numbers, uses and sizes of experts")
    experts: Counts = Field(description="how many experts, before they are cut")
    top_k: Counts = Field(default=[2], description="how many of them a token takes")
    granularity: Counts = Field(default=[1], description="how many parts each expert is cut into")

    laws: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "granularity": {"params": "params_non_embedding"},
        "sparsity": {"params": "params_total"},
    }

    def variants(self, name: str, recipe: dict[str, Any]) -> Iterator[Variant]:
        """``moe`` as ``moe-e8k2g1`` and so on."""
        if not (branches := _expert_branches(recipe)):
            yield Variant(name, name, recipe)
            return
        for experts, top_k, granularity in product(self.experts, self.top_k, self.granularity):
            if top_k > experts:
                raise ValueError(
                    f"grid.top_k: given {top_k} with {experts} experts; allowed: at most as many"
                )
            options = {
                branch: _cut(recipe, branch, experts, top_k, granularity) for branch in branches
            }
            changed = recipe | {"branches": (recipe.get("branches") or {}) | options}
            labels = {
                "experts": experts,
                "granularity": granularity,
                "sparsity": 1 - top_k / experts,
            }
            yield Variant(f"{name}-e{experts}k{top_k}g{granularity}", name, changed, labels)


def _expert_branches(recipe: dict[str, Any]) -> list[str]:
    """Names of the pattern's branches that have experts."""
    branches = recipe.get("branches") or {}
    pattern = f"{recipe.get('prefix') or ''} {recipe.get('pattern') or ''}"
    names = dict.fromkeys(pattern.replace("+", " ").replace("&", " ").split())
    return [name for name in names if (branches.get(name) or {}).get("type", name) == "moe"]


def _cut(
    recipe: dict[str, Any], branch: str, experts: int, top_k: int, granularity: int
) -> dict[str, Any]:
    options = dict((recipe.get("branches") or {}).get(branch) or {})
    options |= {"n_experts": experts * granularity, "top_k": top_k * granularity}
    if options.get("hidden"):
        options["hidden"] = max(1, options["hidden"] // granularity)
    elif granularity > 1:
        gated = options.get("activation", "swiglu") in GATED
        whole = options.get("expansion") or (8 / 3 if gated else 4.0)
        options["expansion"] = whole / granularity
    return options
