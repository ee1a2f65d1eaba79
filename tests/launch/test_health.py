"""What stands out: layers by their gradients, ranks by their pace."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from launch.config import RunConfig
from launch.health import by_layer, flags, stragglers
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


@pytest.mark.cluster
@pytest.mark.parametrize("stage", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_layers_of_a_spread_run_are_those_of_the_whole(
    run_config: Callable[..., RunConfig], ranks: Ranks, gangs: Any, tmp_path: Path, stage: int
):
    train(run_config("hybrid"), tmp_path / "one", ranks)
    spread = run_config("hybrid", parallel__ranks=2, parallel__zero_stage=stage)
    run = gangs.run(spread, tmp_path / "two")
    assert run.status == "finished", run.end
    for one, two in zip(read_run(tmp_path / "one").health, run.health, strict=True):
        assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-3)


def test_stragglers_are_named_with_their_ratio():
    assert stragglers([1.0, 1.2, 3.0, 0.9]) == {2: 3.0}
    assert stragglers([1.0, 2.0]) == {1: 2.0}
    assert stragglers([1.0]) == {}
    assert stragglers([0.0, 0.0]) == {}


@pytest.mark.cluster
def test_a_slow_rank_is_flagged_and_not_ended(
    run_config: Callable[..., RunConfig], gangs: Any, tmp_path: Path
):
    config = run_config(parallel__ranks=2, train__steps=24, train__log_every=8)
    gang = gangs.of(config)
    ray.get(gang._actors[1].__ray_call__.remote(_slow_down))
    run = gangs.run(config, tmp_path)
    gang.close()
    gangs.idle.clear()
    assert run.status == "finished", run.end
    assert {straggler.rank for straggler in run.stragglers} == {1}
    assert all(straggler.ratio > 1.5 for straggler in run.stragglers)


def _slow_down(worker: Any) -> None:
    from launch.objective import Objective

    forward = Objective.forward

    def late(self: Any, *args: Any) -> Any:
        time.sleep(0.05)
        return forward(self, *args)

    Objective.forward = late  # type: ignore[method-assign]


def test_peak_memory_is_that_of_the_process(
    run_config: Callable[..., RunConfig], ranks: Ranks, tmp_path: Path
):
    train(run_config(), tmp_path, ranks)
    now = psutil.Process().memory_info().rss
    assert all(now / 2 < (point.memory or 0) < 20 * now for point in read_run(tmp_path).points)
