"""Counts of deep models, extrapolated from shallow ones, are those of the models as built."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import ModelConfig, Recipe, build, cost
from models.costs import count
from models.memory import saved_bytes, training_memory
from models.periods import by_periods
from models.training import blank


def test_costs_of_deep_models_are_those_of_the_built_ones(zoo: Any, name: str) -> None:
    recipe = zoo.recipe_of(name)
    n_layers = len(recipe.first_layers) + 6 * len(recipe.layers)
    config = recipe.at(width=32, n_layers=n_layers, vocab_size=164)
    with torch.device("meta"):
        params, flops = count(build(config), 24)
    found = cost(config, 24)
    assert (found.params, found.flops_per_token) == (params, flops)


@pytest.mark.parametrize("name", ["rwkv7", "t5", "electra", "deepseek_v3_mtp"])
def test_memory_of_deep_models_is_that_of_the_built_ones(zoo: Any, name: str) -> None:
    recipe = zoo.recipe_of(name)
    config = recipe.at(width=32, n_layers=len(recipe.first_layers) + 7, vocab_size=164)
    with torch.device("meta"):
        model = build(config)
        saved = saved_bytes(model, blank(model, 2, 24))
    found = training_memory(config, batch_size=2, sequence_length=24)
    assert found.activations == saved
    kept = training_memory(config, batch_size=2, sequence_length=24, checkpointing=True)
    assert kept.activations < saved / 2


def test_depth_grows_by_whole_periods_of_both_stacks() -> None:
    """A decoder in twos and an encoder in threes, after layers of their own."""
    recipe = Recipe.from_dict(
        {
            "encoder": {
                "pattern": "attention mlp mlp",
                "branches": {"attention": {"causal": False}},
            },
            "prefix": "mlp",
            "pattern": "cross mlp",
            "objective": "prefix",
        }
    )
    asked = []

    def count(config: ModelConfig) -> tuple[int, ...]:
        asked.append(config.n_layers)
        return (config.n_layers,)

    assert by_periods(recipe.at(width=32, n_layers=63, vocab_size=16), count) == (63,)
    assert asked == [9, 15]
