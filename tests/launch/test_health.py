"""Gradient norms by layer, and what stands out."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.config import RunConfig
from launch.health import by_layer, flags
from launch.journal import read_run
from launch.ranks import Ranks
from launch.train import train


def test_layers_add_up_to_the_whole(
    run_config: Callable[..., RunConfig], ranks: Ranks, tmp_path: Path
):
    train(run_config("hybrid"), tmp_path, ranks)
    run = read_run(tmp_path)
    for health, point in zip(run.health, run.points, strict=True):
        total = math.sqrt(sum(norm**2 for norm in health.grad_norm.values()))
        assert total == pytest.approx(point.grad_norm, rel=1e-5)
        assert {"embedding", "layers.0", "layers.1", "head"} <= health.grad_norm.keys()
        assert not health.flags


def test_vanishing_and_exploding_layers_are_named():
    norms = {f"layers.{i}.mlp.weight": 1.0 for i in range(5)}
    norms |= {"layers.1.mlp.weight": 1e-4, "layers.3.mlp.weight": 1e4, "embedding.weight": 1e9}
    found = {flag.layer: flag.what for flag in flags(by_layer(norms))}
    assert found == {"layers.1": "vanishing", "layers.3": "exploding"}
