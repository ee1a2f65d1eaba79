"""What every recipe promises: a new file under configs/models inherits all of this."""

from __future__ import annotations

import json
import math
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models import Model, ModelConfig, Recipe, build, cost
from models.channels.moe import Moe
from models.linear import Linear
from models.training import blank, losses

GOLDEN = Path(__file__).parents[1] / "golden" / "models"


def test_logits_have_the_shape_of_the_vocabulary(zoo: Any, name: str) -> None:
    model = zoo.randomized(zoo.small(name))
    classes = 2 if model.config.recipe.head.binary else zoo.vocab
    assert zoo.logits(model, zoo.tokens(2, 7)).shape == (2, 7, classes)
    assert zoo.logits(model, zoo.tokens(1, 1)).shape == (1, 1, classes)


def test_no_position_sees_the_future(zoo: Any, name: str) -> None:
    """The gradient of a position's logits is zero after it and not zero at and before it, or
    nowhere zero in an encoder."""
    model = zoo.randomized(zoo.small(name))
    captured: list[torch.Tensor] = []
    model.embedding.register_forward_hook(lambda _m, _i, out: captured.append(out))
    logits = zoo.logits(model, zoo.tokens(1, 11))
    for vectors in captured:
        vectors.retain_grad()
    logits[0, 5].square().sum().backward()
    *source, reach = (vectors.grad[0].abs().sum(-1) for vectors in captured)
    assert (reach[:6] > 0).all()
    seen = reach > 1e-14 * reach.max()  # a Fourier transform's rounding is no sight
    assert (seen[6:] == zoo.sees_all(model)).all()
    assert all((found > 0).all() for found in source)


def test_documents_in_a_row_do_not_see_each_other(zoo: Any, name: str) -> None:
    """A packed row gives each document the logits it has alone."""
    model = zoo.randomized(zoo.small(name))
    first, second = zoo.tokens(1, 6, seed=1), zoo.tokens(1, 9, seed=2)
    segments = torch.tensor([[0] * 6 + [1] * 9])
    positions = torch.cat([torch.arange(6), torch.arange(9)])[None]
    whole = torch.cat([first, second], 1)
    if model.encoder is None:
        packed = model(whole, segments, positions)
        alone = torch.cat([model(first), model(second)], 1)
    else:  # the decoder's documents lie otherwise in their row than the source's in theirs
        given = {"decoder_tokens": torch.cat([second, first], 1)}
        given["decoder_segments"] = torch.tensor([[0] * 9 + [1] * 6])
        given["decoder_positions"] = torch.cat([torch.arange(9), torch.arange(6)])[None]
        packed = model(whole, segments, positions, **given)
        pairs = ((first, second), (second, first))
        alone = torch.cat([model(a, decoder_tokens=b) for a, b in pairs], 1)
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-9)


def test_decoding_step_by_step_equals_the_full_forward(zoo: Any, name: str) -> None:
    model = zoo.randomized(zoo.small(name))
    x, source = zoo.tokens(2, 12), zoo.tokens(2, 9, seed=7)
    if zoo.sees_all(model):
        with pytest.raises(ValueError, match="sees later positions"):
            model.new_cache()
        return
    cache = model.new_cache()

    def step(part: torch.Tensor) -> torch.Tensor:
        if model.encoder is None:
            return model.run(part, cache=cache).logits
        return model.run(source, decoder_tokens=part, cache=cache).logits

    steps = [step(x[:, :5]), *(step(x[:, t : t + 1]) for t in range(5, 12))]
    torch.testing.assert_close(torch.cat(steps, 1), zoo.logits(model, x), rtol=1e-9, atol=1e-9)


def test_meta_counts_are_real_counts(zoo: Any, name: str) -> None:
    config = zoo.small(name)
    model, params = build(config), cost(config, 16).params
    assert params.total == sum(parameter.numel() for parameter in model.parameters())
    assert params.embedding + params.head + params.trunk == params.total
    assert params.active <= params.total


@pytest.mark.parametrize("length", [7, 24])
def test_matmul_flops_are_those_of_torchs_counter(zoo: Any, name: str, length: int) -> None:
    config = zoo.small(name)
    with torch.device("meta"):
        model = build(config)
        given = blank(model, 2, length)
        with FlopCounterMode(display=False) as counter:
            if len(model.ahead):
                model.forward = partial(losses, model)  # the counter names what a call reaches
                model(**given)
            elif model.encoder is None:
                model(given["tokens_BT"])
            else:
                model(given["sources_BS"], decoder_tokens=given["tokens_BT"])
            if model.generator is not None:
                model.generator(given["tokens_BT"])
    counted = counter.get_flop_counts()
    projections = {
        f"Model.{path}" for path, module in model.named_modules() if isinstance(module, Linear)
    }
    total = sum(sum(ops.values()) for path, ops in counted.items() if path in projections)
    for path, module in model.named_modules():
        if isinstance(module, Moe):  # its experts' matmuls, which no module of their own holds
            inside = {p for p in projections if p.startswith(f"Model.{path}.")}
            total += counted[f"Model.{path}"][torch.ops.aten.mm]
            total -= sum(counted[p].get(torch.ops.aten.mm, 0) for p in inside)
    matmul = cost(config, length).flops_per_token.matmul * 2 * length
    assert total == pytest.approx(matmul, rel=1e-12)


def test_weights_are_a_function_of_the_seed(zoo: Any, name: str) -> None:
    config = zoo.small(name)
    models = [build(config) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        model.init_weights(seed)
    first, again, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(first, again)
    assert torch.isfinite(first).all()
    assert not torch.equal(first, other)


def test_initial_loss_is_that_of_a_uniform_guess(zoo: Any, name: str) -> None:
    model = build(zoo.small(name))
    model.init_weights(0)
    classes = 2 if model.config.recipe.head.binary else zoo.vocab
    nats = losses(model, **zoo.example(model, 4, 32)).parts.nats.item()
    assert nats == pytest.approx(math.log(classes), abs=0.1)


def test_one_batch_can_be_learned_by_heart(zoo: Any, name: str) -> None:
    model = build(zoo.small(name))
    model.init_weights(0)
    given = zoo.example(model, 2, 16)
    optimizer = torch.optim.AdamW(model.param_groups(0.01, 0.0), betas=(0.9, 0.95))
    for _ in range(60):
        optimizer.zero_grad()
        losses(model, **given).total.backward()
        optimizer.step()
    assert losses(model, **given).parts.nats.item() < 0.5


def test_every_parameter_is_in_one_group(zoo: Any, name: str) -> None:
    model = build(zoo.small(name))
    groups = model.param_groups(0.02, 0.1)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())


def test_what_decays_multiplies_activations(zoo: Any, name: str) -> None:
    """Weights of linear maps, experts, sLSTM's recurrence, and kernels of short convolutions."""
    model = build(zoo.small(name))
    for path in decayed(model):
        module = model.get_submodule(path.rpartition(".")[0])
        leaf = path.rpartition(".")[2]
        assert leaf in ("into_EDI", "out_EID", "again_HKL", "weight_IQ") or (
            leaf == "weight" and isinstance(module, Linear)
        ), path


def decayed(model: Model) -> list[str]:
    """The names of what has weight decay."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        names[id(parameter)]
        for group in model.param_groups(0.02, 0.1)
        if group["weight_decay"]
        for parameter in group["params"]
    ]


def test_config_round_trips_as_json(zoo: Any, name: str) -> None:
    config = zoo.small(name)
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.to_dict() == config.to_dict()


def test_bfloat16_stays_near_float32(zoo: Any, name: str) -> None:
    """The median over positions: rounding may send a token near a tie to another expert."""
    model = zoo.randomized(zoo.small(name), torch.float32)
    x = zoo.tokens(1, 8)
    exact = zoo.logits(model, x)
    near = zoo.logits(model.to(torch.bfloat16), x).float()
    assert ((near - exact).norm(dim=-1) / exact.norm(dim=-1)).median() < 0.08


@pytest.mark.slow
def test_compiled_model_gives_the_same_logits(zoo: Any, name: str) -> None:
    model = zoo.randomized(zoo.small(name), torch.float32)
    x = zoo.tokens(2, 16)
    fast = zoo.logits(torch.compile(model), x)
    torch.testing.assert_close(fast, zoo.logits(model, x), rtol=1e-3, atol=1e-4)


def test_golden(zoo: Any, name: str) -> None:
    """The resolved config, parameters and FLOPs at one shape, and which parameters have weight
    decay, so that a change shows as a diff.
    `GOLDEN=write pytest tests/models -k golden` writes them anew."""
    config = zoo.small(name, width=64)
    with torch.device("meta"):
        model = build(config)
    decaying, names = set(decayed(model)), dict(model.named_parameters())
    record = {
        "config": config.to_dict(),
        "cost": cost(config, 128).to_dict(),
        "decayed": patterns(decaying),
        "not_decayed": patterns(set(names) - decaying),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def patterns(names: set[str]) -> list[str]:
    """With a star for numbers of layers and of branches in them."""
    return sorted({re.sub(r"\b\d+\b", "*", name) for name in names})


def test_every_golden_file_has_a_recipe(zoo: Any) -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(zoo.names)


def test_defaults_are_spelled_out_in_to_dict(zoo: Any) -> None:
    resolved = zoo.recipe_of("llama").to_dict()
    assert resolved["branches"]["attention"]["n_kv_heads"] is None
    assert Recipe.from_dict(resolved) == zoo.recipe_of("llama")
