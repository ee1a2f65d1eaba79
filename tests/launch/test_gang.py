"""Gangs on a real Ray: equality over ranks, warm reuse, and what killing does."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.config import RunConfig
from launch.journal import RunRecord, read_progress

pytestmark = pytest.mark.cluster
Make = Callable[..., RunConfig]


def curve(run: RunRecord) -> list[tuple[int, float]]:
    return [(point.step, point.loss) for point in run.points]


def assert_close(one: RunRecord, other: RunRecord, tolerance: float) -> None:
    """Losses, gradient norms and evaluations, step by step."""
    assert one.status == other.status == "finished"
    for a, b in zip(one.points, other.points, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=tolerance)
        assert a.grad_norm == pytest.approx(b.grad_norm, abs=tolerance)
    for a, b in zip(one.evals, other.evals, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=tolerance)


def pids(gang: Any) -> list[int]:
    import ray

    return [ray.get(actor.__ray_call__.remote(lambda _: os.getpid())) for actor in gang._actors]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("recipe", ["dense", "hybrid"])
def test_two_ranks_are_one(run_config: Make, gangs: Any, tmp_path: Path, recipe: str):
    one = gangs.run(run_config(recipe), tmp_path / "one")
    two = gangs.run(run_config(recipe, parallel__ranks=2), tmp_path / "two")
    assert_close(one, two, 2e-6)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_experts_spread_over_two_ranks_are_the_same(
    run_config: Make, gangs: Any, tmp_path: Path, stage: int
):
    one = gangs.run(run_config("moe", train__clip=0.3), tmp_path / "one")
    spread = run_config(
        "moe",
        train__clip=0.3,
        parallel__ranks=2,
        parallel__zero_stage=stage,
        parallel__expert_parallel=2,
    )
    assert_close(one, gangs.run(spread, tmp_path / "spread"), 2e-6)


def test_a_warm_worker_repeats_a_cold_one_to_the_bit(run_config: Make, gangs: Any, tmp_path: Path):
    config = run_config("hybrid")
    runs = [gangs.run(config, tmp_path / name) for name in ("first", "second")]
    assert curve(runs[0]) == curve(runs[1])
    seconds = runs[1].points[0].time - runs[0].end.time
    assert seconds < 1.5


def test_a_killed_run_goes_on_to_the_same_curve(run_config: Make, gangs: Any, tmp_path: Path):
    config = run_config(train__steps=150, train__checkpoint_every=7, train__keep_checkpoints=2)
    whole = gangs.run(config, tmp_path / "whole")
    gang, folder = gangs.of(config), tmp_path / "killed"
    [pid] = pids(gang)
    target = random.Random(0).randrange(20, 120)
    gang.submit(config, folder)
    wait_for(lambda: read_progress(folder).step >= target)
    os.kill(pid, signal.SIGKILL)
    outcome = gangs.wait(gang)
    assert (outcome.status, outcome.is_worker_sound) == ("failed", False)
    assert "died" in read_progress(folder).reason
    again = gangs.run(config, folder)
    assert again.attempts[-1].resumed_from % 7 == 0
    assert [point.step for point in again.points] == list(range(1, 151))
    assert curve(again) == curve(whole)


def test_sigterm_saves_and_says_preempted(run_config: Make, gangs: Any, tmp_path: Path):
    config = run_config(train__steps=400)
    gang = gangs.of(config)
    [pid] = pids(gang)
    gang.submit(config, tmp_path)
    wait_for(lambda: read_progress(tmp_path).step >= 5)
    os.kill(pid, signal.SIGTERM)
    outcome = gangs.wait(gang)
    assert outcome.status == "preempted"
    assert (tmp_path / "checkpoints" / f"step-{outcome.step}").is_dir()
    assert gangs.run(config, tmp_path).attempts[-1].resumed_from == outcome.step


def test_a_stop_file_ends_every_rank_together(run_config: Make, gangs: Any, tmp_path: Path):
    config = run_config(train__steps=4000, parallel__ranks=2)
    gang = gangs.of(config)
    gang.submit(config, tmp_path)
    wait_for(lambda: read_progress(tmp_path).step >= 5)
    gang.stop("cancelled")
    outcome = gangs.wait(gang)
    assert (outcome.status, outcome.is_worker_sound) == ("cancelled", True)


def test_a_frozen_rank_is_blamed_by_its_peer(run_config: Make, gangs: Any, tmp_path: Path):
    config = run_config(train__steps=4000, parallel__ranks=2, parallel__step_timeout=3)
    gang = gangs.of(config)
    frozen = pids(gang)[1]
    gang.submit(config, tmp_path)
    wait_for(lambda: read_progress(tmp_path).step >= 5)
    os.kill(frozen, signal.SIGSTOP)
    start = time.monotonic()
    outcome = gangs.wait(gang)
    assert time.monotonic() - start < 6
    assert outcome.status == "failed"
    assert "rank 1" in outcome.reason


def test_a_failed_start_is_told_from_a_failed_run(
    run_config: Make, gangs: Any, tmp_path: Path, stores: Any
):
    config = run_config(data__train=str(tmp_path / "nowhere"))
    outcome_run = gangs.run(config, tmp_path / "run")
    assert outcome_run.status == "failed"
    assert "nowhere" in outcome_run.end.reason
    assert "did not start" not in outcome_run.end.reason
