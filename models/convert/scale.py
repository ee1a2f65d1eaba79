"""muP's scale of the scores, which no family of theirs has, as a part of the weights that make
queries: these are multiplied by what our scale is over 1/√K."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from models.assembly import build
from models.branch import Branch
from models.errors import RecipeError
from models.mixers.attention import Attention
from models.mixers.cross import Cross
from models.mixers.differential import Differential
from models.mixers.disentangled import Disentangled
from models.mixers.mla import Mla
from models.model import Model
from models.recipe import ModelConfig
from models.spec import InitSpec


def plain(config: ModelConfig) -> ModelConfig:
    """The same, whose weights start without muP."""
    return replace(config, recipe=replace(config.recipe, init=InitSpec()))


def folded(model: Model) -> dict[str, Tensor]:
    """The tensors of which another factor than 1 becomes part, by name."""
    with torch.device("meta"):
        theirs = build(plain(model.config))
    result = {}
    for (path, ours), like in zip(model.named_modules(), theirs.modules(), strict=True):
        factor = getattr(ours, "scale", 1.0) / getattr(like, "scale", 1.0)
        if isinstance(ours, Branch) and factor != 1.0:
            for leaf, n_rows in _queries(ours):
                tensor = ours.get_parameter(leaf).clone()
                tensor[:n_rows] *= factor
                result[f"{path}.{leaf}"] = tensor
    return result


def _queries(branch: Branch) -> Iterator[tuple[str, int]]:
    """Parameters that queries are linear in, and how many of their first rows."""
    if isinstance(branch, Attention) and branch.unit_eps is not None:
        allowed = "a norm with weights, or heads as wide as at init.base_width"
        raise RecipeError(("qk_norm",), "unit", allowed, "no weight takes muP's scale of scores")
    if isinstance(branch, Attention) and branch.q_norm is not None:
        yield "q_norm.weight", len(branch.q_norm.weight)
    elif isinstance(branch, Mla):
        yield "q.weight", branch.n_heads * branch.q_width
    else:
        assert isinstance(branch, Attention | Cross | Differential | Disentangled)
        inner = branch.n_heads * branch.head_width
        makers = ["q" if isinstance(branch, Cross) else "qkv"]
        if isinstance(branch, Disentangled) and branch.distance is not None and branch.p2c:
            makers.append("distance")
        for maker in makers:
            yield f"{maker}.weight", inner
            if branch.get_submodule(maker).bias is not None:
                yield f"{maker}.bias", inner
