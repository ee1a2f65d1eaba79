"""Width transfer: the coordinate check, and the rates behind it."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor

from models import Recipe, RecipeError, build
from models.loss import cross_entropy
from models.training import losses

WIDTHS = (32, 64, 128)
RECIPES = Path(__file__).parents[2] / "configs" / "models"
QUICK = {"bert", "gpt2", "lstm", "luong", "mamba2", "mixtral", "rwkv7", "s5"}


def recipe(scheme: str, **more: Any) -> Recipe:
    branches = {"attention": {"head_width": 16}, "mlp": {"activation": "swiglu"}}
    options = {"pattern": "attention+mlp", "branches": branches, "positions": "rope", **more}
    return Recipe.from_dict(options | {"init": {"scheme": scheme, "base_width": 32}})


def scale_after_training(given: Recipe, width: int, rate: float = 0.02) -> dict[str, float]:
    """Root mean squares of the last stream and the logits after five steps."""
    model = build(given.at(width=width, n_layers=2, vocab_size=64))
    model.init_weights(0)
    seen: dict[str, Tensor] = {}
    model.final_norm.register_forward_pre_hook(lambda _m, args: seen.update(stream=args[0]))
    model.head.register_forward_hook(lambda _m, _a, out: seen.update(logits=out))
    x = torch.randint(64, (4, 32), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.param_groups(rate, 0.0), betas=(0.9, 0.95))
    for _ in range(5):
        loss = cross_entropy(model(x), x.roll(-1, 1)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model(x)
    return {name: value.square().mean().sqrt().item() for name, value in seen.items()}


def growth(scheme: str) -> dict[str, float]:
    """How much larger the scales are at the largest width than at the smallest."""
    narrow, wide = (scale_after_training(recipe(scheme), w) for w in (WIDTHS[0], WIDTHS[-1]))
    return {name: wide[name] / narrow[name] for name in narrow}


def test_coordinates_are_flat_in_width_under_mup() -> None:
    for name, ratio in growth("mup").items():
        assert 0.6 < ratio < 1.6, name


def test_logits_grow_with_width_otherwise() -> None:
    assert growth("fan_in")["logits"] > 1.8


def scores_after_training(width: int) -> float:
    """Root mean square of what softmax sees after eight steps, of heads as wide as by default."""
    given = {"pattern": "attention+mlp", "positions": "none"}
    given["init"] = {"scheme": "mup", "base_width": 128}
    model = build(Recipe.from_dict(given).at(width=width, n_layers=1, vocab_size=64))
    model.init_weights(0)
    attention, found = model.layers[0].residuals[0].branch, []
    q_heads, n = attention.n_heads * attention.head_width, attention.head_width

    def note(_module: Any, _args: Any, qkv_BTI: Tensor) -> None:
        q, k = (part.unflatten(-1, (-1, n)) for part in qkv_BTI.split(q_heads, -1)[:2])
        scores = torch.einsum("bthk,bshk->bhts", q, k) * attention.scale
        found.append(scores.square().mean().sqrt().item())

    attention.qkv.register_forward_hook(note)
    x = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.param_groups(0.03, 0.0), betas=(0.9, 0.95))
    for _ in range(8):
        loss = cross_entropy(model(x), x.roll(-1, 1)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model(x)
    return found[-1]


@pytest.mark.slow
def test_scores_are_flat_where_heads_widen() -> None:
    """Those of width 128 are 16 wide, of width 1,024 are 64; by 1/√K scores grow 1.8 times."""
    narrow, wide = scores_after_training(128), scores_after_training(1024)
    assert 0.7 < wide / narrow < 1.4, (narrow, wide)


@pytest.mark.parametrize(
    ("pattern", "options", "base", "own"),
    [
        ("attention", {}, 16, 64),
        ("attention", {"n_heads": 4}, 32, 256),
        ("attention", {"head_width": 32}, 32, 32),
        ("differential", {}, 16, 64),
        ("mla", {}, 16 + 8, 64 + 32),
        ("gau", {}, 128, 128),
        ("gau", {"head_width": 64}, 64, 64),
    ],
)
def test_scores_shrink_with_the_heads_width_under_mup(
    pattern: str, options: dict[str, Any], base: int, own: int
) -> None:
    """√K_b/K (2203.03466, definition 4.1), and 1/√K under another scheme."""

    def scale(scheme: str, width: int) -> float:
        given = {"pattern": pattern, "branches": {pattern: options}}
        recipe = Recipe.from_dict(given | {"init": {"scheme": scheme, "base_width": 128}})
        with torch.device("meta"):
            model = build(recipe.at(width=width, n_layers=1, vocab_size=64))
        found: float = model.layers[0].residuals[0].branch.scale
        return found

    assert scale("mup", 128) == scale("fan_in", 128) == base**-0.5
    assert scale("fan_in", 1024) == own**-0.5
    assert scale("mup", 1024) == pytest.approx(base**0.5 / own)


def test_a_base_width_that_cannot_be_built_is_refused() -> None:
    """It can be counted and read, and not trained."""
    given = {"pattern": "attention+mlp", "branches": {"attention": {"n_heads": 12}}, "init": "mup"}
    shape = {"width": 192, "n_layers": 1, "vocab_size": 64}
    model = build(Recipe.from_dict(given).at(**shape))
    with pytest.raises(RecipeError, match=r"n_heads.*heads do not divide the width 64") as caught:
        model.param_groups(0.02, 0.1)
    assert caught.value.key == ("init", "base_width")
    given |= {"init": {"scheme": "mup", "base_width": 96}}
    assert build(Recipe.from_dict(given).at(**shape)).param_groups(0.02, 0.1)


def scales(zoo: Any, name: str, width: int, scheme: str = "mup") -> dict[str, float]:
    """Root mean squares after four steps of each branch's outputs and of the logits, the mean over
    uses and seeds."""
    given = zoo.recipe_dict(name) | {"init": {"scheme": scheme, "base_width": WIDTHS[0]}}
    given |= {"generator": None, "embedding_scale": False}
    given["head"] = given.get("head", {}) | {"scaled": False}
    recipe = Recipe.from_dict(given)
    n_layers = len(recipe.first_layers) + len(recipe.layers)
    found: dict[str, list[float]] = defaultdict(list)

    def note(name: str, out: Any) -> None:
        out = out[0] if isinstance(out, tuple) else out
        found[name].append(out.square().mean().sqrt().item())

    for seed in range(3):
        model = build(recipe.at(width=width, n_layers=n_layers, vocab_size=zoo.vocab))
        model.init_weights(seed)
        example = zoo.example(model, 2, 16)
        optimizer = torch.optim.Adam(model.param_groups(0.01, 0.0), betas=(0.9, 0.95))
        for _ in range(4):
            optimizer.zero_grad()
            losses(model, **example).total.backward()
            optimizer.step()
        for i, stack in enumerate(model.stacks()):
            for j, use in enumerate(stack.uses()):
                use.branch.register_forward_hook(lambda _m, _a, out, at=f"{i}.{j}": note(at, out))
        model.head.register_forward_hook(lambda _m, _a, out: note("logits", out))
        losses(model, **example)
    return {name: mean(values) for name, values in found.items()}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=() if path.stem in QUICK else pytest.mark.slow)
        for path in sorted(RECIPES.glob("*.yaml"))
    ],
)
def test_every_recipe_is_flat_in_width_under_mup(zoo: Any, name: str) -> None:
    narrow, wide = (scales(zoo, name, width) for width in (WIDTHS[0], WIDTHS[-1]))
    growth = {name: wide[name] / narrow[name] for name in narrow}
    assert all(0.5 < ratio < 1.7 for ratio in growth.values()), growth


@pytest.mark.parametrize(
    ("name", "key"),
    [("gemma2", ("embedding_scale",)), ("t5", ("head", "scaled"))],
)
def test_scales_by_the_width_are_refused_under_mup(
    zoo: Any, name: str, key: tuple[str, ...]
) -> None:
    with pytest.raises(RecipeError, match="changes with the width") as caught:
        Recipe.from_dict(zoo.recipe_dict(name) | {"init": "mup"})
    assert caught.value.key == key


def test_rates_follow_the_width_for_matrices_alone() -> None:
    model = build(recipe("mup").at(width=128, n_layers=1, vocab_size=64))
    rates = {
        id(parameter): group["lr"]
        for group in model.param_groups(0.02, 0.1)
        for parameter in group["params"]
    }
    branch = model.layers[0].residuals[1].branch
    assert rates[id(branch.into.weight)] == pytest.approx(0.02 * 32 / 128)
    assert rates[id(model.head.weight)] == pytest.approx(0.02 * 32 / 128)
    assert rates[id(model.embedding.weight)] == 0.02
    assert rates[id(model.final_norm.weight)] == 0.02


def test_rates_follow_the_fan_in_and_not_the_width(zoo: Any) -> None:
    """At eight times the base width: fixed ranks, ranks and heads that grow as its root."""

    def ratios(name: str, width: int, base: int, **more: Any) -> dict[str, float]:
        given = zoo.recipe_dict(name) | {"init": {"scheme": "mup", "base_width": base}}
        for branch, options in more.items():
            given["branches"][branch] = {**(given["branches"].get(branch) or {}), **options}
        recipe = Recipe.from_dict(given)
        with torch.device("meta"):
            n_layers = len(recipe.first_layers) + len(recipe.layers)
            model = build(recipe.at(width=width, n_layers=n_layers, vocab_size=64))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return {
            re.sub(r".*branch\.", "", names[id(parameter)]): group["lr"]
            for group in model.param_groups(1.0, 0.1)
            for parameter in group["params"]
        }

    latent = ratios("deepseek_v2", 1024, 128, mla={"q_rank": 48})
    assert latent["q_a.weight"] == 1 / 8  # from the stream
    assert latent["q.weight"] == 1.0  # from 48 channels at every width
    assert latent["kv.weight"] == 1 / 4  # from four times a head's width, 16 and 64
    bottleneck = ratios("rwkv7", 2048, 256)
    assert bottleneck["decay.up.weight"] == 32 / 128
    assert bottleneck["decay.down.weight"] == 1 / 8
    recurrence = ratios("xlstm_mixed", 1024, 128)
    assert recurrence["again_HKL"] == 16 / 64
    assert recurrence["norm_D"] == 1.0
    experts = ratios("mixtral", 1024, 128, moe={"hidden": 64})
    assert (experts["into_EDI"], experts["out_EID"]) == (1 / 8, 1.0)


def test_rate_times_decay_does_not_depend_on_width() -> None:
    for width in WIDTHS:
        model = build(recipe("mup").at(width=width, n_layers=1, vocab_size=64))
        products = {
            round(group["lr"] * group["weight_decay"], 12)
            for group in model.param_groups(0.02, 0.1)
            if group["weight_decay"]
        }
        assert products == {0.002}


@pytest.mark.slow
def test_the_best_rate_transfers() -> None:
    """The best of a geometric grid of rates stays within a factor of two over three widths."""
    rates = [0.005, 0.01, 0.02, 0.04, 0.08]
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(64, (64, 2), generator=generator)

    def sequence(n: int) -> Tensor:
        x = torch.randint(64, (16, 32), generator=torch.Generator().manual_seed(n))
        coin = torch.randint(2, x.shape, generator=torch.Generator().manual_seed(n + 1))
        for t in range(1, 32):
            x[:, t] = table[x[:, t - 1], coin[:, t]]
        return x

    def final_loss(width: int, rate: float) -> float:
        model = build(recipe("mup").at(width=width, n_layers=2, vocab_size=64))
        model.init_weights(0)
        optimizer = torch.optim.Adam(model.param_groups(rate, 0.0), betas=(0.9, 0.95))
        losses = []
        for step in range(60):
            x = sequence(2 * step)
            loss = cross_entropy(model(x[:, :-1]), x[:, 1:]).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return sum(losses[-10:])

    best = [min(rates, key=lambda rate: final_loss(width, rate)) for width in WIDTHS]
    assert max(best) <= 2 * min(best)
