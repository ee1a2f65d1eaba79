"""Recipes: the pattern language, defaults, and one clear error for everything that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import Recipe, RecipeError, build, cost
from models.pattern import Use, parse

GOOD: dict[str, Any] = {"pattern": "attention+mlp", "branches": {"mlp": {"activation": "gelu"}}}


@pytest.mark.parametrize(("name", "key"), [("llama", "head_width"), ("deepseek_v2", "nope_width")])
def test_a_width_without_heads_of_its_own_is_refused(zoo: Any, name: str, key: str) -> None:
    """Rather than cut into hundreds of heads of two components."""
    with pytest.raises(RecipeError, match="none fits the width 770 by default") as caught:
        zoo.recipe_of(name).at(width=770, n_layers=2, vocab_size=64)
    assert caught.value.key[-1] == key


@pytest.mark.parametrize(
    ("name", "positions", "key"),
    [
        ("t5", {"type": "relative", "buckets": 32, "max_distance": 16}, "max_distance"),
        ("t5", {"type": "relative", "buckets": 2}, "buckets"),
        ("deberta", {"type": "disentangled", "buckets": 4, "max_distance": 3}, "max_distance"),
    ],
)
def test_buckets_must_widen_up_to_the_furthest_distance(
    zoo: Any, name: str, positions: dict[str, Any], key: str
) -> None:
    recipe = Recipe.from_dict(zoo.recipe_dict(name) | {"positions": positions})
    with pytest.raises(RecipeError) as caught:
        recipe.at(width=32, n_layers=2, vocab_size=200)
    assert caught.value.key == ("positions", key)


def test_pattern_is_layers_of_uses() -> None:
    assert parse("mamba mamba+&attention+mlp") == (
        (Use("mamba"),),
        (Use("mamba"), Use("attention", shared=True), Use("mlp")),
    )


def test_a_name_may_be_another_branch_with_options() -> None:
    recipe = Recipe.from_dict(
        {
            "pattern": "swa+mlp attention+mlp",
            "branches": {"swa": {"type": "attention", "window": 4}},
        }
    )
    layers = build(recipe.at(width=32, n_layers=2, vocab_size=8)).layers
    windows = [layer.uses[0].branch.mask.window for layer in layers]
    assert windows == [4, None]


def test_shared_branches_are_counted_once_and_used_often() -> None:
    alone = Recipe.from_dict({"pattern": "mlp mlp+attention"})
    shared = Recipe.from_dict({"pattern": "mlp mlp+&attention"})
    shape = {"width": 32, "n_layers": 6, "vocab_size": 8}
    each, once = cost(alone.at(**shape), 8), cost(shared.at(**shape), 8)
    attention = 4 * 32 * 32 + 32
    assert each.params.total - once.params.total == 2 * attention
    assert each.flops_per_token == once.flops_per_token
    model = build(shared.at(**shape))
    uses = [layer.uses[-1] for layer in model.layers if len(layer.uses) == 2]
    assert len(set(map(id, uses))) == 1
    assert len(model.state_dict()) == len(list(model.parameters()))


BIDIRECTIONAL = {"attention": {"causal": False}}
ENCODER = {"pattern": "attention+mlp", "branches": BIDIRECTIONAL}
BAD = [
    ({"patern": "mlp"}, ("patern",), "did you mean 'pattern'"),
    ({"pattern": ""}, ("pattern",), "names nothing"),
    ({"pattern": "attention+"}, ("pattern",), "not a branch"),
    ({"pattern": "atention+mlp", "branches": {}}, ("pattern",), "did you mean 'attention'"),
    ({"branches": {"mlp": {"activaton": "gelu"}}}, ("branches", "mlp", "activaton"), "activation"),
    ({"branches": {"mlp": {"activation": "swigl"}}}, ("branches", "mlp", "activation"), "'swiglu'"),
    ({"branches": {"mlp": {"bias": 1}}}, ("branches", "mlp", "bias"), "true or false"),
    ({"branches": {"moe": {}}}, ("branches", "moe"), "not in the pattern"),
    ({"branches": {"mlp": {"type": "mpl"}}}, ("branches", "mlp", "type"), "did you mean 'mlp'"),
    ({"norm": {"placement": "before"}}, ("norm", "placement"), "pre, post"),
    ({"positions": "rop"}, ("positions", "type"), "did you mean 'rope'"),
    ({"positions": {"type": "rope", "theta": "x"}}, ("positions", "theta"), "a number"),
    ({"init": "mupp"}, ("init", "scheme"), "did you mean 'mup'"),
    ({"tied": "yes"}, ("tied",), "true or false"),
    ({"objective": "maskd"}, ("objective", "type"), "did you mean 'masked'"),
    ({"objective": "masked"}, ("objective", "type"), "sees the past alone"),
    ({"objective": "infilling"}, ("objective", "type"), "allowed: causal, "),
    ({"branches": BIDIRECTIONAL}, ("objective", "type"), "'causal'; allowed: masked"),
    ({"pattern": "attention+cross+mlp"}, ("encoder",), "the stack that cross reads"),
    ({"encoder": ENCODER, "objective": "prefix"}, ("pattern",), "no branch reads the encoder"),
    (
        {"encoder": ENCODER, "pattern": "attention+cross+mlp"},
        ("objective", "type"),
        "does not fit an encoder-decoder",
    ),
    (
        {"encoder": {"pattern": "attention+mpl"}, "pattern": "cross+mlp", "objective": "prefix"},
        ("encoder", "pattern"),
        "did you mean 'mlp'",
    ),
    (
        {"encoder": {"pattern": "cross"}, "pattern": "cross+mlp", "objective": "prefix"},
        ("encoder", "pattern"),
        "reads a source",
    ),
    (
        {
            "encoder": ENCODER,
            "pattern": "attention+cross+mlp",
            "objective": "prefix",
            "branches": BIDIRECTIONAL,
        },
        ("branches", "attention"),
        "looks ahead",
    ),
    (
        {"branches": BIDIRECTIONAL, "objective": "masked", "head": {"binary": True}},
        ("head", "binary"),
        "false with the objective masked",
    ),
    ({"head": {"tranform": "gelu"}}, ("head", "tranform"), "did you mean 'transform'"),
    ({"generator": {"fraction": 0.5}}, ("generator",), "replaced_token"),
]


@pytest.mark.parametrize(("change", "key", "says"), BAD, ids=lambda value: str(value)[:40])
def test_bad_recipe(change: dict[str, Any], key: tuple[str, ...], says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict(GOOD | change)
    assert caught.value.key == key
    assert says in str(caught.value)


BAD_AT_SHAPE = [
    ({"branches": {"attention": {"n_heads": 5}}}, ("branches", "attention", "n_heads")),
    ({"branches": {"attention": {"head_width": 5}}}, ("branches", "attention", "head_width")),
    ({"branches": {"attention": {"n_kv_heads": 3}}}, ("branches", "attention", "n_kv_heads")),
    (
        {"pattern": "attention+moe", "branches": {"moe": {"n_experts": 2, "top_k": 3}}},
        ("branches", "moe", "top_k"),
    ),
    (
        {"pattern": "mamba2", "branches": {"mamba2": {"head_width": 7}}},
        ("branches", "mamba2", "head_width"),
    ),
    ({"pattern": "mlp mlp mlp", "branches": {}}, ("n_layers",)),
    (
        {
            "encoder": {"pattern": "attention", "branches": {"attention": {"n_heads": 5}}},
            "pattern": "cross+mlp",
            "objective": "prefix",
        },
        ("encoder", "branches", "attention", "n_heads"),
    ),
    (
        {"encoder": ENCODER, "pattern": "cross+mlp cross", "objective": "prefix"}
        | {"branches": {"cross": {"head_width": 5}}},
        ("branches", "cross", "head_width"),
    ),
]


@pytest.mark.parametrize(("change", "key"), BAD_AT_SHAPE, ids=lambda value: str(value)[:40])
def test_bad_shape(change: dict[str, Any], key: tuple[str, ...]) -> None:
    recipe = Recipe.from_dict(GOOD | change)
    with pytest.raises(RecipeError) as caught:
        recipe.at(width=32, n_layers=4, vocab_size=8)
    assert caught.value.key == key


def test_layers_that_do_not_tile_name_their_neighbours() -> None:
    recipe = Recipe.from_dict({"pattern": "mlp mlp mlp"})
    with pytest.raises(RecipeError, match="3 or 6"):
        recipe.at(width=32, n_layers=4, vocab_size=8)


def test_too_few_sentinels_for_a_sequence() -> None:
    given = GOOD | {"objective": {"type": "span_corruption", "sentinels": 10}}
    config = Recipe.from_dict(given).at(width=32, n_layers=1, vocab_size=100)
    cost(config, 128)
    with pytest.raises(RecipeError, match="at least 27, for the spans of 512 tokens"):
        cost(config, 512)


def test_sequence_longer_than_learned_positions() -> None:
    recipe = Recipe.from_dict(GOOD | {"positions": {"type": "learned", "max_length": 4}})
    model = build(recipe.at(width=32, n_layers=1, vocab_size=8))
    with pytest.raises(RecipeError, match="at least the sequence length 5"):
        model(torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(RecipeError, match="at least the sequence length 5"):
        cost(model.config, 5)


def test_decoding_past_learned_positions() -> None:
    recipe = Recipe.from_dict(GOOD | {"positions": {"type": "learned", "max_length": 4}})
    model = build(recipe.at(width=32, n_layers=1, vocab_size=8))
    model.init_weights(0)
    token, cache = torch.zeros(1, 2, dtype=torch.long), model.new_cache()
    for _ in range(2):
        model.run(token, cache=cache)
    with pytest.raises(RecipeError, match="at least the sequence length 5"):
        model.run(token[:, :1], cache=cache)


def test_random_features_need_their_normaliser() -> None:
    options = {"feature": "random", "normalize": False}
    recipe = Recipe.from_dict(
        {"pattern": "linear_attention", "branches": {"linear_attention": options}}
    )
    with pytest.raises(RecipeError, match="leaves each query at a scale apart") as caught:
        recipe.at(width=32, n_layers=1, vocab_size=8)
    assert caught.value.key == ("branches", "linear_attention", "normalize")
