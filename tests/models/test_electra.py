"""The generator's part: what it forges, what it learns from, what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import Model, Recipe, build, cost
from models.electra import forge
from models.training import losses

MASK = 63


@pytest.fixture
def model(zoo: Any) -> Model:
    made = build(zoo.small("electra", 64))
    made.init_weights(0)
    return made


def hidden(zoo: Any, batch: int = 4, length: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    text = zoo.tokens(batch, length).clamp(max=MASK - 1)
    masked = text.clone()
    masked[:, 1::5] = MASK
    return masked, text


def test_only_hidden_tokens_are_forged(zoo: Any, model: Model) -> None:
    masked, text = hidden(zoo)
    forged = forge(model, masked, text, torch.ones_like(text))
    shown = masked != MASK
    assert torch.equal(forged.tokens_BT[shown], text[shown])
    assert torch.equal(forged.replaced_BT, (forged.tokens_BT != text).long())
    assert forged.replaced_BT[~shown].float().mean() > 0.5  # an untrained one is seldom right


def test_samples_follow_the_generators_probabilities(zoo: Any, model: Model) -> None:
    """Its head's bias alone speaks: 3 to 1 for two tokens."""
    assert model.generator is not None
    with torch.no_grad():
        for parameter in model.generator.transform.parameters():
            parameter.zero_()
        model.generator.head.bias.fill_(-50.0)
        model.generator.head.bias[:2] = torch.tensor([3.0, 1.0]).log()
    masked = torch.full((8, 500), MASK)
    torch.manual_seed(0)
    found = forge(model, masked, torch.zeros_like(masked), torch.ones(8, 500)).tokens_BT
    assert set(found.unique().tolist()) == {0, 1}
    assert (found == 0).float().mean() == pytest.approx(0.75, abs=0.03)


def test_the_generator_learns_from_hidden_tokens_alone(zoo: Any, model: Model) -> None:
    masked, text = hidden(zoo)
    found = losses(model, masked, text)
    assert model.generator is not None
    own = list(model.generator.layers.parameters())
    found.parts.total.backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in own)
    assert model.embedding.weight.grad is not None
    found.balance.backward()
    assert all(parameter.grad is not None for parameter in own)
    assert found.balance.item() * 50 == pytest.approx(found.aux["generator"].item())


def test_both_share_the_vectors_and_are_counted(zoo: Any, model: Model) -> None:
    generator = model.generator
    assert generator is not None
    assert generator.config.width == 16
    assert generator.embedding.weight is model.embedding.weight
    assert generator.head.weight is model.embedding.weight
    alone = Recipe.from_dict(zoo.recipe_dict("electra") | {"generator": None})
    less = cost(alone.at(width=64, n_layers=2, vocab_size=64), 32)
    both = cost(model.config, 32)
    its = cost(generator.config, 32)
    assert both.flops_per_token.total == pytest.approx(
        less.flops_per_token.total + its.flops_per_token.total
    )
    shared = sum(
        parameter.numel()
        for parameter in generator.parameters()
        if id(parameter)
        in {id(p) for m in (model.embedding, model.positions) for p in m.parameters()}
    )
    assert both.params.total == less.params.total + its.params.total - shared


@pytest.mark.parametrize("scheme", ["scaled", "mup"])
def test_a_shared_head_is_not_drawn_again(zoo: Any, scheme: str) -> None:
    given = zoo.recipe_dict("electra") | {"init": {"scheme": scheme, "base_width": 32}}
    model = build(Recipe.from_dict(given).at(width=64, n_layers=2, vocab_size=64))
    model.init_weights(0)
    assert model.embedding.weight.std().item() == pytest.approx(
        1.0 if scheme == "mup" else 0.02, rel=0.05
    )
    rates = {
        id(parameter): group["lr"]
        for group in model.param_groups(0.02, 0.0)
        for parameter in group["params"]
    }
    assert rates[id(model.embedding.weight)] == 0.02
