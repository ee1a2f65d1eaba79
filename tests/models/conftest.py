"""Recipes and small shapes that every test of the zoo shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from models import Model, ModelConfig, Recipe, build
from models.sight import looking_ahead

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
    def logits(model: Model, x_BT: torch.Tensor, **context: Any) -> torch.Tensor:
        """Of the tokens that logits follow; an encoder reads a source of its own."""
        if model.encoder is None:
            return model(x_BT, **context)
        return model(Zoo.tokens(len(x_BT), 9, seed=7), decoder_tokens=x_BT, **context)

    @staticmethod
    def example(model: Model, batch: int, length: int) -> dict[str, torch.Tensor]:
        """Something to learn by heart, as `models.training.losses` takes it."""
        x_BT = Zoo.tokens(batch, length)
        if model.encoder is not None:
            source = Zoo.tokens(batch, 9, seed=7)
            return {"tokens_BT": x_BT, "targets_BT": x_BT.roll(-1, 1), "sources_BS": source}
        if model.generator is not None:
            text = x_BT.clamp(max=VOCAB - 2)
            hidden = text.clone()
            hidden[:, ::4] = VOCAB - 1
            return {"tokens_BT": hidden, "targets_BT": text}
        if model.config.recipe.head.binary:
            return {"tokens_BT": x_BT, "targets_BT": x_BT % 2}
        return {"tokens_BT": x_BT, "targets_BT": x_BT.roll(-1, 1)}

    @staticmethod
    def sees_all(model: Model) -> bool:
        """Whether a position sees later ones, so that there is nothing to decode."""
        return bool(looking_ahead(model.config.recipe))

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
