"""Memory against what a real run holds, and states against their definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import build, cost
from models.memory import State, decoding_state, saved_bytes, training_memory
from models.training import blank


@pytest.mark.parametrize("name", ["llama", "mixtral", "hybrid"])
@pytest.mark.parametrize("width", [32, 64, 96])
def test_activations_are_those_of_a_real_run(zoo: Any, name: str, width: int) -> None:
    config = zoo.small(name, width)
    model = build(config)
    model.init_weights(0)
    x = zoo.tokens(2, 48)
    real = saved_bytes(model, {"tokens_BT": x, "targets_BT": x})
    derived = training_memory(config, batch_size=2, sequence_length=48)
    assert derived.activations == pytest.approx(real, rel=0.1)
    assert derived.weights == 4 * cost(config, 48).params.total


def test_zero_spreads_one_thing_per_stage(zoo: Any) -> None:
    config = zoo.small("llama")
    shape: dict[str, Any] = {"batch_size": 1, "sequence_length": 8, "world": 4}
    stages = [training_memory(config, zero=stage, **shape) for stage in range(4)]
    for name, stage in (("optimizer", 1), ("gradients", 2), ("weights", 3)):
        held = [getattr(memory, name) for memory in stages]
        assert held[stage] == pytest.approx(held[0] / 4, rel=1e-3)
        assert held[:stage] == [held[0]] * stage


def test_checkpointing_trades_activations(zoo: Any) -> None:
    config = zoo.recipe_of("llama").at(width=32, n_layers=8, vocab_size=64)
    shape: dict[str, Any] = {"batch_size": 2, "sequence_length": 32}
    plain = training_memory(config, **shape)
    less = training_memory(config, checkpointing=True, **shape)
    assert less.activations < plain.activations / 2


def test_half_precision_keeps_float32_weights_in_the_optimizer(zoo: Any) -> None:
    config = zoo.small("llama")
    shape: dict[str, Any] = {"batch_size": 1, "sequence_length": 8}
    wide = training_memory(config, **shape)
    half = training_memory(config, dtype=torch.bfloat16, **shape)
    assert half.weights * 2 == wide.weights
    assert half.optimizer * 2 == wide.optimizer * 3


def test_one_rank_in_half_precision_holds_18_bytes_a_parameter_at_any_stage(zoo: Any) -> None:
    config = zoo.small("llama")
    shape: dict[str, Any] = {"batch_size": 1, "sequence_length": 8, "dtype": torch.bfloat16}
    n_params = cost(config, 8).params.total
    for stage in range(4):
        memory = training_memory(config, zero=stage, **shape)
        assert memory.total - memory.activations == 18 * n_params
    apart = training_memory(config, zero=1, offload=True, **shape)
    assert apart.total - apart.activations == 4 * n_params


def test_states_grow_with_attention_alone(zoo: Any) -> None:
    llama = zoo.small("llama", 64)
    assert decoding_state(llama).per_token == 2 * 64 * llama.n_layers
    assert decoding_state(zoo.small("mamba2")).per_token == 0
    latent = zoo.small("deepseek_v2", 64)
    assert decoding_state(latent).per_token == (4 * 16 + 8) * latent.n_layers
    assert decoding_state(zoo.small("mistral", 64), length=128).per_token == 0


@pytest.mark.parametrize("name", ["bert", "electra", "t5"])
def test_activations_of_other_objectives_are_those_of_a_real_run(zoo: Any, name: str) -> None:
    config = zoo.small(name)
    model = build(config)
    model.init_weights(0)
    real = saved_bytes(model, blank(model, 2, 48))
    derived = training_memory(config, batch_size=2, sequence_length=48)
    less = training_memory(config, batch_size=2, sequence_length=48, checkpointing=True)
    assert derived.activations == pytest.approx(real, rel=0.1)
    assert less.activations < derived.activations


def test_a_decoder_keeps_the_source_once(zoo: Any) -> None:
    config = zoo.small("t5", 64)
    state = decoding_state(config)
    assert state.per_token == state.per_source_token == 2 * 64 * config.n_layers
    assert state.fixed == 0
    assert decoding_state(zoo.small("bert")) == State(0, 0.0)
