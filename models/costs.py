"""What a model costs, derived from the model itself built on the meta device.

Parameters are counted by group and the groups sum to the total. Matmul FLOPs walk every use of
every projection (shared weights count once as parameters and at each use as FLOPs); mixing FLOPs
are the engines' own lines, exact for the mask: a causal mask counts its T(T+1)/2 pairs, also where
a row holds separate documents, whose pairs are fewer. Norms, activations and other pointwise work
are not counted. All FLOPs are forward, two per multiply-add.

A token is a token of text. Where the objective makes another sequence of the text, or two as for
an encoder-decoder, the FLOPs of those are divided by the tokens of text that they came from: FLOPs
per token times the tokens of text read are what a run computes, whatever its objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from models.assembly import build
from models.linear import Linear
from models.model import Model
from models.periods import by_periods
from models.recipe import ModelConfig, Recipe

TRAINING = 3
"""A training step is a forward pass and a backward pass of twice its FLOPs."""


@dataclass(frozen=True)
class Params:
    """`embedding` includes learned position tables; `head` is 0 when tied to the embedding; `trunk`
    is all the rest, ELECTRA's generator included; `idle` are those of experts that a token does not
    use. The names at the end are the conventions of the scaling literature."""

    embedding: int
    head: int
    trunk: int
    idle: int
    tied: bool
    output: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.head + self.trunk

    @property
    def active(self) -> int:
        """Used by a token, embeddings included."""
        return self.total - self.idle

    @property
    def non_embedding(self) -> int:
        """The trunk with all experts (Kaplan's N, 2001.08361)."""
        return self.trunk

    @property
    def compute(self) -> int:
        """The active trunk and the output head, tied or not: what multiplies activations."""
        return self.trunk - self.idle + self.output


@dataclass(frozen=True)
class Flops:
    """Forward FLOPs per token of text, the mean over a sequence."""

    matmul: float
    mixing: float

    @property
    def total(self) -> float:
        """Both."""
        return self.matmul + self.mixing


@dataclass(frozen=True)
class Cost:
    """Parameters, and FLOPs at one sequence length."""

    params: Params
    flops_per_token: Flops
    sequence_length: int

    @property
    def training_flops_per_token(self) -> float:
        """Forward and backward: the one place where the 3 is applied."""
        return TRAINING * self.flops_per_token.total

    def conventions(self) -> dict[str, float]:
        """Training FLOPs per token as the literature counts them, and exactly."""
        params = self.params
        return {
            "6_total": 6.0 * params.total,
            "6_active": 6.0 * params.active,
            "6_non_embedding": 6.0 * params.non_embedding,
            "6_compute": 6.0 * params.compute,
            "exact": self.training_flops_per_token,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the derived figures."""
        params, flops = self.params, self.flops_per_token
        names = ("total", "active", "non_embedding", "compute")
        return {
            "params": asdict(params) | {name: getattr(params, name) for name in names},
            "flops_per_token": asdict(flops) | {"total": flops.total},
            "sequence_length": self.sequence_length,
            "training_flops_per_token": self.training_flops_per_token,
            "conventions": self.conventions(),
        }


def cost(config: ModelConfig, sequence_length: int) -> Cost:
    """The cost of a config, without allocating its weights; RecipeError if it cannot have sequences
    of that length."""
    config.check_length(sequence_length)
    return Cost(*_counted(Key(config), sequence_length), sequence_length)


def count(model: Model, sequence_length: int) -> tuple[Params, Flops]:
    """The cost of a built model, on any device."""
    return _named(model.config.recipe, _counts(model, sequence_length), sequence_length)


Counts = tuple[int, ...]
"""Parameters as in `Params`, then FLOPs of projections and between positions for a row of text."""


def _named(recipe: Recipe, counts: Counts, sequence_length: int) -> tuple[Params, Flops]:
    embedding, head, trunk, idle, output, matmul, mixing = counts
    return (
        Params(embedding, head, trunk, idle, recipe.tied, output),
        Flops(matmul / sequence_length, mixing / sequence_length),
    )


def _counts(model: Model, sequence_length: int) -> Counts:
    tables = [stack.positions for stack in model.stacks() if stack.positions is not None]
    embedding = _size([model.embedding, *tables])
    output = model.head.weight.numel()
    head = 0 if model.config.recipe.tied else output
    total = _size([model])
    uses = [use for stack in model.stacks() for use in stack.uses()]
    uses += [use for module in model.ahead for use in module.layer.uses]  # type: ignore[union-attr]
    branches = {id(use.branch): use.branch for use in uses}
    idle = sum(branch.idle_params() for branch in branches.values())
    trunk = total - embedding - head
    return embedding, head, trunk, idle, output, *_flops(model, sequence_length)


def _flops(model: Model, sequence_length: int) -> tuple[int, int]:
    """Of a row of so many tokens of text as the objective makes sequences of it."""
    source, length = model.config.recipe.task.lengths(sequence_length)
    if model.encoder is None:
        source, length = 0, source + length
    matmul = length * _projections([model.head, model.transform])
    mixing = 0
    for stack, n in ((model.encoder, source), (model, length)):
        for use in [] if stack is None else stack.uses():
            matmul += n * use.branch.matmul_flops() + source * use.branch.source_matmul_flops()
            mixing += use.branch.mixing_flops(n) + use.branch.source_mixing_flops(n, source)
        matmul += n * _projections([] if stack is None else [stack.project])
    for module in model.ahead:
        matmul += length * _projections([module.project, model.head])  # type: ignore[list-item]
        for use in module.layer.uses:  # type: ignore[union-attr]
            matmul += length * use.branch.matmul_flops()
            mixing += use.branch.mixing_flops(length)
    if model.generator is not None:
        other = _flops(model.generator, sequence_length)
        matmul, mixing = matmul + other[0], mixing + other[1]
    return matmul, mixing


def _projections(modules: Sequence[nn.Module | None]) -> int:
    inside = [part for module in modules if module is not None for part in module.modules()]
    return sum(part.flops for part in inside if isinstance(part, Linear))


def _size(modules: Sequence[nn.Module]) -> int:
    """Parameters, a shared one once."""
    held = {id(p): p.numel() for module in modules for p in module.parameters()}
    return sum(held.values())


class Key:
    """A config hashed by what it says."""

    def __init__(self, config: ModelConfig) -> None:
        self.config, self.text = config, repr(config)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other.text == self.text


@lru_cache(maxsize=4096)
def _counted(key: Key, sequence_length: int) -> tuple[Params, Flops]:
    def counts(config: ModelConfig) -> Counts:
        with torch.device("meta"):
            return _counts(build(config), sequence_length)

    return _named(key.config.recipe, by_periods(key.config, counts), sequence_length)
