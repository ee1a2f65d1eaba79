"""Recipes and small shapes that every test of the zoo shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from models import Model, ModelConfig, Recipe, build

CONFIGS = Path(__file__).parents[2] / "configs" / "models"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
VOCAB = 64


class Zoo:
    """Recipes, small members of them, and inputs."""

    names = NAMES
    vocab = VOCAB

    @staticmethod
    def recipe_dict(name: str) -> dict[str, Any]:
        return YAML(typ="safe").load(CONFIGS / f"{name}.yaml")

    @staticmethod
    def recipe_of(name: str) -> Recipe:
        return Recipe.from_dict(Zoo.recipe_dict(name))

    @staticmethod
    def small(name: str, width: int = 32) -> ModelConfig:
        """The recipe at two periods of its pattern, or one if that is long."""
        recipe = Zoo.recipe_of(name)
        period = len(recipe.layers)
        return recipe.at(
            width=width, n_layers=period if period > 4 else 2 * period, vocab_size=VOCAB
        )

    @staticmethod
    def randomized(config: ModelConfig, dtype: torch.dtype = torch.float64) -> Model:
        """A built model none of whose parameters is zero, so that every path matters."""
        model = build(config)
        model.init_weights(0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        return model.to(dtype)

    @staticmethod
    def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
        return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def zoo() -> type[Zoo]:
    """The helpers (test folders are not importable)."""
    return Zoo


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Every recipe of configs/models."""
    return str(request.param)
