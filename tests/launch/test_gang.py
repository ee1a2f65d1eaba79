"""Gangs on a real Ray: warm reuse, and what killing, freezing and stopping do."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.config import RunConfig
from launch.journal import FencedError, RunRecord, read_run
from launch.tail import read_tail
from launch.worker import rank_by_node

pytestmark = pytest.mark.cluster
Make = Callable[..., RunConfig]


def curve(run: RunRecord) -> list[tuple[int, float]]:
    return [(point.step, point.loss) for point in run.points]


def pids(gang: Any) -> list[int]:
    import ray

    return [ray.get(actor.__ray_call__.remote(lambda _: os.getpid())) for actor in gang._actors]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_local_cluster_is_on_loopback(ray_cluster: None):
    import ray

    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]


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
    wait_for(lambda: read_tail(folder).step >= target)
    os.kill(pid, signal.SIGKILL)
    outcome = gangs.wait(gang)
    assert (outcome.status, outcome.is_worker_sound) == ("failed", False)
    assert "died" in read_tail(folder).reason
    again = gangs.run(config, folder)
    assert again.attempts[-1].resumed_from % 7 == 0
    assert [point.step for point in again.points] == list(range(1, 151))
    assert curve(again) == curve(whole)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2])
def test_twenty_kills_leave_no_trace(run_config: Make, gangs: Any, tmp_path: Path, ranks: int):
    """Any rank, at any step, in the middle of a save or not."""
    config = run_config(
        "moe",
        train__steps=300,
        train__evaluations=10,
        train__checkpoint_every=4,
        train__keep_checkpoints=2,
        parallel__ranks=ranks,
    )
    whole = gangs.run(config, tmp_path / "whole")
    folder, chance = tmp_path / "killed", random.Random(ranks)
    for target in sorted(chance.sample(range(1, 290), 20)):
        gang = gangs.of(config)
        victim = chance.choice(pids(gang))
        gang.submit(config, folder)
        wait_for(lambda target=target: read_tail(folder).step >= target)
        os.kill(victim, signal.SIGKILL)
        assert gangs.wait(gang).status == "failed"
    killed = gangs.run(config, folder)
    assert len(killed.attempts) == 21
    assert curve(killed) == curve(whole)
    assert [(e.step, e.loss) for e in killed.evals] == [(e.step, e.loss) for e in whole.evals]


def test_sigterm_saves_and_says_preempted(run_config: Make, gangs: Any, tmp_path: Path):
    config = run_config(train__steps=400)
    gang = gangs.of(config)
    [pid] = pids(gang)
    gang.submit(config, tmp_path)
    wait_for(lambda: read_tail(tmp_path).step >= 5)
    os.kill(pid, signal.SIGTERM)
    outcome = gangs.wait(gang)
    assert outcome.status == "preempted"
    assert (tmp_path / "checkpoints" / f"step-{outcome.step}").is_dir()
    assert gangs.run(config, tmp_path).attempts[-1].resumed_from == outcome.step


def test_a_stop_file_ends_every_rank_together(run_config: Make, gangs: Any, tmp_path: Path):
    config = run_config(train__steps=4000, parallel__ranks=2)
    gang = gangs.of(config)
    gang.submit(config, tmp_path)
    wait_for(lambda: read_tail(tmp_path).step >= 5)
    gang.stop("cancelled")
    outcome = gangs.wait(gang)
    assert (outcome.status, outcome.is_worker_sound) == ("cancelled", True)


def test_a_frozen_rank_is_blamed_by_its_peer(run_config: Make, gangs: Any, tmp_path: Path):
    config = run_config(train__steps=4000, parallel__ranks=2, parallel__step_timeout=3)
    gang = gangs.of(config)
    frozen = pids(gang)[1]
    gang.submit(config, tmp_path)
    wait_for(lambda: read_tail(tmp_path).step >= 5)
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
    assert "Traceback" in (tmp_path / "run" / "rank-0.log").read_text()


@pytest.mark.parametrize(
    ("nodes", "ranks"),
    [
        (["a"] * 3, [0, 1, 2]),
        (["a", "b", "a", "b"], [0, 2, 1, 3]),
        (["c", "a", "b", "a", "c"], [0, 2, 4, 3, 1]),
    ],
)
def test_ranks_of_a_node_follow_each_other(nodes: list[str], ranks: list[int]):
    assert [rank_by_node(index, nodes) for index in range(len(nodes))] == ranks


@pytest.mark.slow
def test_a_run_that_a_later_driver_claims_is_left_alone(
    run_config: Make, ray_cluster: None, tmp_path: Path
):
    """As when a driver was frozen, seemed dead, and wakes: its ranks and itself write no more."""
    from launch.gang import Gang, wait_any

    config = run_config(train__steps=300, train__checkpoint_every=20, parallel__ranks=1)
    old, new = (Gang(config.parallel, epoch=epoch) for epoch in (1, 2))
    old.submit(config, tmp_path)
    wait_for(lambda: read_tail(tmp_path).step >= 30)
    new.submit(config, tmp_path)
    ends = {}
    while len(ends) < 2:
        left = [gang for gang in (old, new) if gang not in ends]
        ends |= dict(wait_any(left, 60))
        old.stop()
    assert (ends[old].status, ends[new].status) == ("failed", "finished")
    assert "another attempt" in ends[old].reason
    run = read_run(tmp_path)
    assert [point.step for point in run.points] == list(range(1, 301))
    assert (len(run.attempts), run.status) == (2, "finished")
    with pytest.raises(FencedError, match="epoch 2, not 1"):
        old.submit(config, tmp_path)
    new.close()
