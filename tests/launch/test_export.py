"""Exported weights are the trained model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from data.loader import Loader
from data.store import TokenStore
from launch.config import RunConfig
from launch.export import export, load_model, weights
from launch.journal import read_run
from launch.manifest import DamagedCheckpointError
from launch.ranks import Ranks
from launch.train import train
from models.loss import cross_entropy

Make = Callable[..., RunConfig]


def heldout_loss(config: RunConfig, run: Path) -> float:
    store = TokenStore.open(config.data.heldout)
    model, nats, weight = load_model(run), 0.0, 0.0
    for batch in Loader.heldout(store, config.data.sequence_length, 8).batches():
        logits = model(torch.from_numpy(batch.tokens_BT))
        parts = cross_entropy(
            logits, torch.from_numpy(batch.targets_BT), torch.from_numpy(batch.weights_BT)
        )
        nats += float(parts.nats * parts.weight)
        weight += float(parts.weight)
    return nats / weight


@pytest.mark.parametrize("recipe", ["dense", "moe", "hybrid"])
def test_the_loaded_model_has_the_loss_of_the_journal(
    run_config: Make, ranks: Ranks, tmp_path: Path, recipe: str
):
    config = run_config(recipe, train__checkpoint_every=12)
    config.write(tmp_path / "config.json")
    train(config, tmp_path, ranks)
    assert heldout_loss(config, tmp_path) == pytest.approx(read_run(tmp_path).evals[-1].loss, 1e-6)
    export(tmp_path, tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(state[name], value) for name, value in weights(tmp_path).items())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"]) == config.model


@pytest.mark.cluster
def test_a_sharded_run_exports_whole_weights(run_config: Make, gangs: Any, tmp_path: Path):
    kept = {"train__checkpoint_every": 12, "parallel__ranks": 2}
    spread = run_config("moe", parallel__expert_parallel=2, **kept)
    whole = run_config("moe", parallel__zero_stage=3, **kept)
    for config, name in ((spread, "spread"), (whole, "whole")):
        gangs.run(config, tmp_path / name)
    ours, theirs = weights(tmp_path / "spread"), weights(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], atol=1e-4), name


def test_a_run_without_checkpoints_says_so(run_config: Make, ranks: Ranks, tmp_path: Path):
    config = run_config()
    config.write(tmp_path / "config.json")
    train(config, tmp_path, ranks)
    with pytest.raises(DamagedCheckpointError, match=r"train\.checkpoint_every"):
        weights(tmp_path)
