"""The model: embedding, one or two stacks of layers of residual branches, head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models import init
from models.branch import Aux
from models.channels.activation import activate
from models.context import Context, State
from models.engines.slices import Slices
from models.linear import Linear
from models.norm import LayerNorm
from models.positions import LearnedTable
from models.recipe import ModelConfig
from models.residual import Layer
from models.sight import looking_ahead
from models.stack import Parts, Stack

LOSSES = ("balance", "router_z")


@dataclass
class Output:
    """`aux` holds raw auxiliary losses (means over the layers that have them; weigh them by
    `Model.aux_weights`) and statistics such as `load/3`, layer 3's share of rows per expert, or
    `load/encoder.3`. `stream_BTD` is what the head read."""

    logits: Tensor
    aux: Aux = field(default_factory=dict)
    stream_BTD: Tensor | None = None


@dataclass
class Cache:
    """The states of a decoding: one slot per branch use, and how many positions they hold."""

    slots: list[list[State]]
    length: int = 0


class Embedding(nn.Embedding):
    """Token vectors, left unset until `Model.init_weights`."""

    def reset_parameters(self) -> None:
        """Nothing: set in `models.init`."""


class Transform(nn.Module):
    """A dense layer, an activation and perhaps a norm before the head (1810.04805's code)."""

    def __init__(self, width: int, n_out: int, activation: str, eps: float, has_norm: bool) -> None:
        super().__init__()
        self.activation = activation
        self.dense = Linear(width, n_out, bias=True)
        self.norm = LayerNorm(n_out, eps, bias=True) if has_norm else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to the embedding's width."""
        x_BTE = activate(self.activation, self.dense(x_BTD))
        return x_BTE if self.norm is None else self.norm(x_BTE)


class Model(Stack):
    """Token ids (B, T) to logits (B, T, V). Built by `models.build`.

    An encoder-decoder is the decoder's stack with an `encoder`: its tokens are the source's, and
    the logits follow `decoder_tokens`. `generator` is ELECTRA's second model (`models.electra`),
    `ahead` are modules that predict further tokens in training (`models.ahead`). With `slices` a
    rank is given, and gives, its part of every row.
    """

    def __init__(
        self,
        config: ModelConfig,
        parts: Parts,
        encoder: Stack | None = None,
        generator: Model | None = None,
        ahead: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__(parts)
        recipe: Any = config.recipe
        head = recipe.head
        narrow = recipe.embedding_width or config.width
        self.config = config
        self.embedding = Embedding(config.vocab_size, narrow)
        self.encoder = encoder
        self.generator = generator
        self.ahead = nn.ModuleList(ahead)
        self.slices: Slices | None = None
        transformed = head.transform != "none"
        n_in = narrow if transformed and not head.binary else config.width
        self.transform = (
            Transform(config.width, n_in, head.transform, recipe.norm.eps, head.norm)
            if transformed
            else None
        )
        n_out = 1 if head.binary else config.vocab_size
        self.head = Linear(n_in, n_out, bias=head.bias, role="head")
        if recipe.tied:
            self.head.weight = self.embedding.weight
        if generator is not None:
            generator.embedding.weight = self.embedding.weight
            generator.head.weight = self.embedding.weight
            if isinstance(self.positions, LearnedTable):
                generator.positions = self.positions
        self.multiplier = init.logit_multiplier(config)
        self.aux_weights = _aux_weights(
            [layer for stack in self.stacks() for layer in stack.layers]
        )

    def forward(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        *,
        decoder_tokens: Tensor | None = None,
        decoder_segments: Tensor | None = None,
        decoder_positions: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V), of the decoder's tokens if there is an encoder."""
        return self.run(
            tokens_BT,
            segments_BT=segments_BT,
            positions_BT=positions_BT,
            decoder_tokens=decoder_tokens,
            decoder_segments=decoder_segments,
            decoder_positions=decoder_positions,
        ).logits

    def run(
        self,
        tokens_BT: Tensor,
        *,
        segments_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        decoder_tokens: Tensor | None = None,
        decoder_segments: Tensor | None = None,
        decoder_positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Output:
        """Logits and what the branches report. With a `cache` the tokens follow those already in
        it, and are added to it; a source is read once, with the first of them."""
        aux: Aux = {}
        offset, slices = cache.length if cache else 0, self.slices
        if slices is not None:
            offset = slices.rank * tokens_BT.shape[1]
        context = Context(segments_BT, positions_BT, offset=offset, slices=slices)
        context.meet()
        if (self.encoder is None) != (decoder_tokens is None):
            raise ValueError(
                "decoder_tokens: what an encoder-decoder needs, and no other model has"
            )
        if self.encoder is not None and decoder_tokens is not None:
            source = None
            if not offset:
                source, found = self.encoder.stream(self.vectors(tokens_BT), context)
                aux = {name.replace("/", "/encoder."): value for name, value in found.items()}
            context = Context(
                decoder_segments,
                decoder_positions,
                offset=offset,
                source_BSD=source,
                source_segments_BS=segments_BT,
            )
            tokens_BT = decoder_tokens
        x_BTD, found = self.stream(self.vectors(tokens_BT), context, cache.slots if cache else None)
        if cache is not None:
            cache.length += tokens_BT.shape[1]
        return Output(self.logits(x_BTD), _averaged(aux | found), x_BTD)

    def stacks(self) -> Iterator[Stack]:
        """The encoder, if there is one, and the stack that leads to the logits."""
        if self.encoder is not None:
            yield self.encoder
        yield self

    def new_cache(self) -> Cache:
        """An empty cache for decoding; ValueError if a position sees later ones."""
        ahead = looking_ahead(self.config.recipe)
        if ahead:
            raise ValueError(f"{ahead[0]} sees later positions: nothing to decode step by step")
        layers = [layer for layer in self.layers if isinstance(layer, Layer)]
        return Cache([[{} for _ in layer.uses] for layer in layers])

    def init_weights(self, seed: int) -> None:
        """Set every parameter by the recipe's scheme; the same for the same seed and names."""
        init.init_weights(self, seed)

    def rebalance(self, aux: Aux, where: str = "") -> None:
        """See `Stack.rebalance`, of every stack."""
        super().rebalance(aux, where)
        if self.encoder is not None:
            self.encoder.rebalance(aux, "encoder.")
        for k, module in enumerate(self.ahead, 1):
            if f"load/ahead.{k}" in aux:
                for use in module.layer.uses:  # type: ignore[union-attr]
                    use.branch.rebalance(aux[f"load/ahead.{k}"])

    def param_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: learning rates scaled with width as the scheme says, and decay
        on `matrices` and kernels of convolutions alone. See `ModelConfig.check_rates`."""
        return init.param_groups(self, learning_rate, weight_decay)

    def matrices(self) -> Iterator[init.Matrix]:
        """Every weight that multiplies activations, the head's included unless it is tied: of
        `Linear`s, of experts (stacked), of branches' own."""
        return init.matrices(self)

    def vectors(self, tokens_BT: Tensor) -> Tensor:
        """Of tokens, as the stacks read them."""
        x_BTE: Tensor = self.embedding(tokens_BT)
        return x_BTE * self.config.width**0.5 if self.config.recipe.embedding_scale else x_BTE

    def logits(self, x_BTD: Tensor) -> Tensor:
        """Of the stream after the last norm."""
        recipe: Any = self.config.recipe
        if recipe.head.scaled:
            x_BTD = x_BTD * self.config.width**-0.5
        if self.transform is not None:
            x_BTD = self.transform(x_BTD)
        if self.multiplier != 1.0:
            x_BTD = x_BTD * self.multiplier
        logits_BTV: Tensor = self.head(x_BTD)
        if recipe.head.binary:
            return torch.cat([torch.zeros_like(logits_BTV), logits_BTV], -1)
        cap = recipe.logit_softcap
        return logits_BTV if cap is None else cap * torch.tanh(logits_BTV / cap)


def _averaged(aux: Aux) -> Aux:
    """Losses as means over layers, statistics as they are."""
    result = {name: value for name, value in aux.items() if name.split("/")[0] not in LOSSES}
    for loss in LOSSES:
        values = [value for name, value in aux.items() if name.split("/")[0] == loss]
        if values:
            result[loss] = torch.stack(values).mean()
    return result


def _aux_weights(layers: Sequence[Any]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for layer in layers:
        for residual in layer.uses:
            for name, weight in residual.branch.aux_weights.items():
                assert weights.setdefault(name, weight) == weight, "one weight per auxiliary loss"
    return weights
