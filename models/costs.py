"""What a model costs, derived from the model itself built on the meta device.

Parameters are counted by group and the groups sum to the total. Matmul FLOPs walk every use of
every projection (shared weights count once as parameters and at each use as FLOPs); mixing FLOPs
are the engines' own lines, exact for the mask: a causal mask counts its T(T+1)/2 pairs. Norms,
activations and other pointwise work are not counted. All FLOPs are forward, two per multiply-add.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from models.assembly import build
from models.model import Model
from models.recipe import ModelConfig

TRAINING = 3
"""A training step is a forward pass and a backward pass of twice its FLOPs."""


@dataclass(frozen=True)
class Params:
    """`embedding` includes a learned position table; `head` is 0 when tied to the embedding;
    `idle` are those of experts that a token does not use. The names at the end are the conventions
    of the scaling literature."""

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
    """Forward FLOPs per token, the mean over a sequence."""

    matmul: int
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
    """The cost of a config, without allocating its weights."""
    return Cost(*_counted(_Key(config), sequence_length), sequence_length)


def count(model: Model, sequence_length: int) -> tuple[Params, Flops]:
    """The cost of a built model, on any device."""
    recipe = model.config.recipe
    embedding = model.embedding.weight.numel()
    if model.positions is not None:
        embedding += sum(p.numel() for p in model.positions.parameters())
    output = model.head.weight.numel()
    outside = (model.embedding, model.positions, model.head)
    taken = {id(p) for module in outside if module is not None for p in module.parameters()}
    trunk = sum(p.numel() for p in model.parameters() if id(p) not in taken)
    branches = {id(use.branch): use.branch for use in model.uses()}
    idle = sum(branch.idle_params() for branch in branches.values())
    head = 0 if recipe.tied else output
    params = Params(embedding, head, trunk, idle, recipe.tied, output)
    assert params.total == sum(p.numel() for p in model.parameters()), "groups sum to the total"
    matmul = model.head.flops + sum(use.branch.matmul_flops() for use in model.uses())
    mixing = sum(use.branch.mixing_flops(sequence_length) for use in model.uses())
    return params, Flops(matmul, mixing / sequence_length)


class _Key:
    """A config hashed by what it says."""

    def __init__(self, config: ModelConfig) -> None:
        self.config, self.text = config, repr(config)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.text == self.text


@lru_cache(maxsize=4096)
def _counted(key: _Key, sequence_length: int) -> tuple[Params, Flops]:
    with torch.device("meta"):
        return count(build(key.config), sequence_length)
