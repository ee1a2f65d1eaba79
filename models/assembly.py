"""From a config to a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models import registry
from models.branch import Branch, Frame
from models.errors import RecipeError
from models.model import Model
from models.norm import norm
from models.pattern import Use
from models.positions import Learned, Sinusoidal, scheme
from models.recipe import ModelConfig
from models.residual import Layer, Residual


def build(config: ModelConfig) -> Model:
    """The model on torch's current default device, its weights unset: call `init_weights`."""
    recipe = config.recipe
    spec: Any = recipe.norm
    layers = []
    shared: dict[str, Residual] = {}
    for i, uses in enumerate(config.layers()):
        residuals = [shared.get(use.name) if use.shared else None for use in uses]
        owned = [residual is None for residual in residuals]
        made = [
            residual or Residual(_branch(config, use, i), config.width, spec)
            for use, residual in zip(uses, residuals, strict=True)
        ]
        shared.update(
            {use.name: residual for use, residual in zip(uses, made, strict=True) if use.shared}
        )
        layers.append(Layer(made, owned, parallel=spec.placement == "parallel"))

    def make_norm() -> nn.Module:
        return norm(spec.type, config.width, spec.eps, spec.bias)

    positions: Any = scheme(dict(recipe.positions))  # type: ignore[arg-type]
    has_table = isinstance(positions, Learned | Sinusoidal)
    return Model(
        config,
        layers,
        final_norm=None if spec.placement == "post" else make_norm(),
        positions=positions.module(config.width) if has_table else None,
        embedding_norm=make_norm() if recipe.embedding_norm else None,
    )


def sample_branch(config: ModelConfig, name: str) -> Branch:
    """One branch of a config on the meta device, to ask it what its options came to."""
    with torch.device("meta"):
        return _branch(config, Use(name), 0)


def _branch(config: ModelConfig, use: Use, layer: int) -> Branch:
    recipe = config.recipe
    options = dict(recipe.branches[use.name])
    frame = Frame(
        width=config.width,
        n_layers=config.n_layers,
        n_branches=n_branches(config),
        layer=layer,
        positions=dict(recipe.positions),  # type: ignore[arg-type]
        norm_eps=recipe.norm.eps,  # type: ignore[union-attr]
    )
    kind = registry.branches()[options.pop("type")].load()
    try:
        branch: Branch = kind(frame, **options)
    except RecipeError as error:
        raise error.within("branches", use.name) from None
    return branch


def n_branches(config: ModelConfig) -> int:
    """Residual branches from the embedding to the head."""
    return sum(map(len, config.layers()))
