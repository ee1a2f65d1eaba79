"""The ladder: ascending, fine enough, and honest about its error."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from models import RecipeError
from models.size import (
    FLOPS,
    depths,
    error,
    nearest,
    params_of,
    shapes,
    size_of,
    with_depth,
    with_width,
)


@pytest.mark.parametrize("name", ["llama", "mixtral", "hybrid"])
def test_steps_are_small_enough_for_an_isoflop_grid(zoo: Any, name: str) -> None:
    ladder = shapes(zoo.recipe_of(name), vocab_size=1024, low=2e4, high=2e6)
    sizes = [params_of(config) for config in ladder]
    assert sizes == sorted(sizes)
    assert sizes[0] < 3e4
    assert max(b / a for a, b in pairwise(sizes)) <= 1.6


def test_nearest_is_the_nearest_of_the_ladder(zoo: Any) -> None:
    recipe = zoo.recipe_of("llama")
    ladder = shapes(recipe, vocab_size=1024, low=2e4, high=4e6)
    for target in (5e4, 3e5, 1e6):
        found = nearest(recipe, vocab_size=1024, target=target)
        best = min(ladder, key=lambda c: max(params_of(c) / target, target / params_of(c)))
        assert abs(error(found, target)) <= abs(error(best, target)) + 1e-12


def test_billions_of_parameters_are_sized_without_allocating(zoo: Any) -> None:
    config = nearest(zoo.recipe_of("llama"), vocab_size=32000, target=70e9, convention="total")
    assert abs(error(config, 70e9, "total")) < 0.05


@pytest.mark.parametrize("name", ["llama", "mixtral", "bert"])
def test_flops_per_token_lead_to_a_shape_as_well(zoo: Any, name: str) -> None:
    recipe = zoo.recipe_of(name)
    options: dict[str, Any] = {"convention": FLOPS, "sequence_length": 256}
    found = nearest(recipe, vocab_size=1024, target=1e8, **options)
    assert abs(error(found, 1e8, FLOPS, 256)) < 0.2
    ladder = shapes(recipe, vocab_size=1024, low=1e5, high=1e8)
    best = min(abs(math.log(size_of(config, FLOPS, 256) / 1e8)) for config in ladder)
    assert abs(math.log(size_of(found, FLOPS, 256) / 1e8)) == pytest.approx(best)


@pytest.mark.parametrize("name", ["llama", "jamba", "deepseek_v2"])
def test_a_width_and_a_depth_lead_to_shapes_of_the_rule(zoo: Any, name: str) -> None:
    recipe = zoo.recipe_of(name)
    wide = with_width(recipe, 4096, 1024)
    assert wide.n_layers in depths(recipe, 4096)
    deep = with_depth(recipe, wide.n_layers, 1024)
    assert deep.n_layers == wide.n_layers
    assert deep.n_layers in depths(recipe, deep.width)
    assert 0.8 < deep.width / 4096 < 1.25


def test_unknown_convention(zoo: Any) -> None:
    with pytest.raises(RecipeError, match="did you mean 'compute'"):
        shapes(zoo.recipe_of("llama"), vocab_size=64, low=1, high=1e5, convention="computed")


def test_the_objectives_own_tokens_come_on_top(zoo: Any) -> None:
    found = nearest(zoo.recipe_of("t5"), vocab_size=1000, target=1e5)
    assert found.vocab_size == 1100
