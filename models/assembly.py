"""From a config to a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from models import registry
from models.ahead import Ahead
from models.branch import Branch, Frame
from models.errors import RecipeError
from models.linear import Linear
from models.mixers.attention import Attention
from models.model import Model
from models.norm import norm
from models.pattern import Layer as Uses
from models.pattern import Use
from models.positions import (
    Disentangled,
    DistanceTable,
    Learned,
    Relative,
    RelativeTable,
    Sinusoidal,
    scheme,
)
from models.recipe import ModelConfig
from models.residual import Layer, Residual
from models.spec import StackSpec
from models.stack import Parts, Stack


def build(config: ModelConfig) -> Model:
    """The model on torch's current default device, its weights unset: call `init_weights`."""
    encoder, generator = config.recipe.encoder, config.generator
    return Model(
        config,
        _parts(config, config.recipe, config.layers()),
        encoder=Stack(_parts(config, encoder, config.encoder_layers()))
        if isinstance(encoder, StackSpec)
        else None,
        generator=None if generator is None else build(generator),
        ahead=[_ahead(config, k) for k in range(getattr(config.recipe.task, "depth", 0))],
    )


def sample_branch(config: ModelConfig, name: str) -> Branch:
    """One branch of a config on the meta device, to ask it what its options came to."""
    with torch.device("meta"):
        return _branch(config, config.recipe, Use(name), 0)


def n_branches(config: ModelConfig) -> int:
    """Residual branches from the embedding to the head, through the encoder if there is one."""
    return sum(map(len, config.encoder_layers() + config.layers()))


def _parts(config: ModelConfig, spec: StackSpec, layers_of_uses: Sequence[Uses]) -> Parts:
    recipe, placing = config.recipe, spec.norm
    layers = []
    shared: dict[str, Residual] = {}
    common: dict[str, nn.Module] = {}
    for i, uses in enumerate(layers_of_uses):
        residuals = [shared.get(use.name) if use.shared else None for use in uses]
        owned = [residual is None for residual in residuals]
        made = [
            residual or Residual(_branch(config, spec, use, i, common), config.width, placing)  # type: ignore[arg-type]
            for use, residual in zip(uses, residuals, strict=True)
        ]
        shared.update(
            {use.name: residual for use, residual in zip(uses, made, strict=True) if use.shared}
        )
        layers.append(Layer(made, owned, parallel=placing.placement == "parallel"))  # type: ignore[union-attr]

    narrow = recipe.embedding_width or config.width

    def make_norm(width: int) -> nn.Module:
        return norm(placing.type, width, placing.eps, placing.bias)  # type: ignore[union-attr]

    positions: Any = scheme(dict(spec.positions))  # type: ignore[arg-type]
    has_table = isinstance(positions, Learned | Sinusoidal)
    return Parts(
        layers,
        positions=positions.module(narrow) if has_table else None,
        relative=_relative(config, spec, [use.branch for layer in layers for use in layer.uses]),
        embedding_norm=make_norm(narrow) if spec.embedding_norm else None,
        project=Linear(narrow, config.width, bias=True) if narrow != config.width else None,
        final_norm=None if placing.placement == "post" else make_norm(config.width),  # type: ignore[union-attr]
    )


def _ahead(config: ModelConfig, k: int) -> Ahead:
    """A module of multi-token prediction, its layer as the last of the model's."""
    recipe: Any = config.recipe
    residuals = [
        Residual(_branch(config, recipe, use, config.n_layers + k), config.width, recipe.norm)
        for use in config.layers()[-1]
    ]
    parallel = recipe.norm.placement == "parallel"
    layer = Layer(residuals, [True] * len(residuals), parallel=parallel)
    first, second, last = (
        norm(recipe.norm.type, config.width, recipe.norm.eps, recipe.norm.bias) for _ in range(3)
    )
    return Ahead(config.width, layer, (first, second, last))


def _relative(
    config: ModelConfig, spec: StackSpec, branches: Sequence[Branch]
) -> RelativeTable | DistanceTable | None:
    """The table that a stack's attention shares, if its positions are of that kind."""
    positions: Any = scheme(dict(spec.positions))  # type: ignore[arg-type]
    if isinstance(positions, Disentangled):
        return DistanceTable(positions, config.width, spec.norm.eps)  # type: ignore[union-attr]
    if not isinstance(positions, Relative):
        return None
    kinds = {(b.n_heads, b.mask.causal) for b in branches if isinstance(b, Attention)}
    if len(kinds) != 1:
        raise RecipeError(
            ("positions", "type"),
            "relative",
            "a stack whose attention has one number of heads and looks one way",
            "cannot be shared",
        )
    return RelativeTable(positions, *kinds.pop())


def _branch(
    config: ModelConfig,
    spec: StackSpec,
    use: Use,
    layer: int,
    common: dict[str, nn.Module] | None = None,
) -> Branch:
    options, init = dict(spec.branches[use.name]), config.recipe.init
    frame = Frame(
        width=config.width,
        n_layers=config.n_layers,
        n_branches=n_branches(config),
        layer=layer,
        positions=dict(spec.positions),  # type: ignore[arg-type]
        norm_eps=spec.norm.eps,  # type: ignore[union-attr]
        base_width=init.base_width if init.scheme == "mup" else None,  # type: ignore[union-attr]
        shared={} if common is None else common,
    )
    kind = registry.branches()[options.pop("type")].load()
    try:
        branch: Branch = kind(frame, **options)
    except RecipeError as error:
        raise error.within("branches", use.name) from None
    return branch
