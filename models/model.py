"""The model: embedding, layers of residual branches, head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models import init
from models.branch import Aux
from models.context import Context, State
from models.linear import Linear
from models.positions import LearnedTable, SinusoidalTable
from models.recipe import ModelConfig
from models.residual import Layer, Residual

LOSSES = ("balance", "router_z")


@dataclass
class Output:
    """`aux` holds raw auxiliary losses (means over the layers that have them; weigh them by
    `Model.aux_weights`) and statistics such as `load/3`, layer 3's share of rows per expert."""

    logits: Tensor
    aux: Aux = field(default_factory=dict)


@dataclass
class Cache:
    """The states of a decoding: one slot per branch use, and how many positions they hold."""

    slots: list[list[State]]
    length: int = 0


class Embedding(nn.Embedding):
    """Token vectors, left unset until `Model.init_weights`."""

    def reset_parameters(self) -> None:
        """Nothing: set in `models.init`."""


class Model(nn.Module):
    """Token ids (B, T) to logits (B, T, V). Built by `models.build`."""

    def __init__(
        self,
        config: ModelConfig,
        layers: Sequence[Layer],
        final_norm: nn.Module | None,
        positions: LearnedTable | SinusoidalTable | None,
        embedding_norm: nn.Module | None,
    ) -> None:
        super().__init__()
        recipe = config.recipe
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.width)
        self.embedding_norm = embedding_norm
        self.positions = positions
        self.layers = nn.ModuleList(layers)
        self.final_norm = final_norm
        self.head = Linear(config.width, config.vocab_size, role="head")
        if recipe.tied:
            self.head.weight = self.embedding.weight
        self.multiplier = init.logit_multiplier(config)
        self.aux_weights = _aux_weights(layers)

    def forward(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V)."""
        return self.run(tokens_BT, segments_BT=segments_BT, positions_BT=positions_BT).logits

    def run(
        self,
        tokens_BT: Tensor,
        *,
        segments_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Output:
        """Logits and what the branches report. With a `cache` the tokens follow those already in
        it, and are added to it."""
        context = Context(segments_BT, positions_BT, offset=cache.length if cache else 0)
        x_BTD = self._embed(tokens_BT, context)
        aux: Aux = {}
        for i, layer in enumerate(self.layers):
            x_BTD, reported = layer(x_BTD, context, cache.slots[i] if cache else None)
            for name, value in reported.items():
                aux[f"{name}/{i}"] = value
        if self.final_norm is not None:
            x_BTD = self.final_norm(x_BTD)
        if cache is not None:
            cache.length += tokens_BT.shape[1]
        return Output(self._logits(x_BTD), _averaged(aux))

    def uses(self) -> list[Residual]:
        """Every use of a branch in order; a shared one comes up at each of its uses."""
        return [use for layer in self.layers if isinstance(layer, Layer) for use in layer.uses]

    def new_cache(self) -> Cache:
        """An empty cache for decoding."""
        layers = [layer for layer in self.layers if isinstance(layer, Layer)]
        return Cache([[{} for _ in layer.uses] for layer in layers])

    def init_weights(self, seed: int) -> None:
        """Set every parameter by the recipe's scheme; the same for the same seed and names."""
        init.init_weights(self, seed)

    def rebalance(self, aux: Aux) -> None:
        """After an optimizer step: let routers with a selection bias follow the loads in `aux`."""
        for i, layer in enumerate(self.layers):
            if f"load/{i}" in aux and isinstance(layer, Layer):
                for use in layer.uses:
                    use.branch.rebalance(aux[f"load/{i}"])

    def param_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: learning rates scaled with width as the scheme says, and no
        decay on embeddings, norms, biases and other vectors."""
        return init.param_groups(self, learning_rate, weight_decay)

    def _embed(self, tokens_BT: Tensor, context: Context) -> Tensor:
        x_BTD: Tensor = self.embedding(tokens_BT)
        if self.config.recipe.embedding_scale:
            x_BTD = x_BTD * self.config.width**0.5
        if self.positions is not None:
            at = context.positions_BT
            if at is None:
                at = torch.arange(tokens_BT.shape[1], device=tokens_BT.device) + context.offset
            x_BTD = x_BTD + self.positions(at).to(x_BTD.dtype)
        return x_BTD if self.embedding_norm is None else self.embedding_norm(x_BTD)

    def _logits(self, x_BTD: Tensor) -> Tensor:
        if self.multiplier != 1.0:
            x_BTD = x_BTD * self.multiplier
        logits_BTV: Tensor = self.head(x_BTD)
        cap = self.config.recipe.logit_softcap
        return logits_BTV if cap is None else cap * torch.tanh(logits_BTV / cap)


def _averaged(aux: Aux) -> Aux:
    """Losses as means over layers, statistics as they are."""
    result = {name: value for name, value in aux.items() if name.split("/")[0] not in LOSSES}
    for loss in LOSSES:
        values = [value for name, value in aux.items() if name.split("/")[0] == loss]
        if values:
            result[loss] = torch.stack(values).mean()
    return result


def _aux_weights(layers: Sequence[Layer]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for layer in layers:
        for residual in layer.uses:
            for name, weight in residual.branch.aux_weights.items():
                assert weights.setdefault(name, weight) == weight, "one weight per auxiliary loss"
    return weights
