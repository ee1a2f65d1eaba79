"""Gangs on a real Ray: warm reuse, and what killing, freezing and stopping do."""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from launch.config import RunConfig
from launch.journal import FencedError, RunRecord, read_run
from launch.ranks import Place
from launch.tail import read_tail
from launch.worker import Worker, rank_by_node

pytestmark = pytest.mark.cluster
Make = Callable[..., RunConfig]


def curve(run: RunRecord) -> list[tuple[int, float]]:
    return [(point.step, point.loss) for point in run.points]


def pids(gang: Any) -> list[int]:
    return [ray.get(actor.__ray_call__.remote(lambda _: os.getpid())) for actor in gang._actors]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_local_cluster_is_on_loopback(ray_cluster: None):
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


def test_killed_in_the_middle_of_a_save_the_one_before_is_used(
    run_config: Make, gangs: Any, tmp_path: Path
):
    config = run_config(train__steps=60, train__checkpoint_every=7, train__keep_checkpoints=2)
    whole = gangs.run(config, tmp_path / "whole")
    gang, folder = gangs.of(config), tmp_path / "killed"
    [pid] = pids(gang)
    ray.get(gang._actors[0].__ray_call__.remote(write_half_of, 21))
    gang.submit(config, folder)
    wait_for(lambda: any(folder.glob("checkpoints/draft-21*/*.safetensors")))
    os.kill(pid, signal.SIGKILL)
    assert gangs.wait(gang).status == "failed"
    [draft] = folder.glob("checkpoints/draft-*")
    again = gangs.run(config, folder)
    told = (folder / "rank-0.log").read_text()
    assert f"removed the half-written checkpoint {draft}" in told
    assert not any(folder.glob("checkpoints/draft-*"))
    assert [attempt.resumed_from for attempt in again.attempts] == [None, 14]
    assert curve(again) == curve(whole)


def write_half_of(worker: Any, step: int) -> None:
    """Have this rank stop in the midst of writing the checkpoint of that step."""
    from launch import checkpoint

    save = checkpoint.save_file

    def save_half(tensors: Any, path: Path) -> None:
        save(tensors, path)
        if path.parent.name.split("-")[1] == str(step):
            os.truncate(path, path.stat().st_size // 2)
            time.sleep(3600)

    checkpoint.save_file = save_half


@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_saves_and_says_preempted(run_config: Make, gangs: Any, tmp_path: Path, ranks: int):
    """As a machine sends it to every process before it is taken away, half a minute later."""
    config = run_config(train__steps=4000, parallel__ranks=ranks)
    gang = gangs.of(config)
    processes = pids(gang)
    gang.submit(config, tmp_path)
    wait_for(lambda: read_tail(tmp_path).step >= 5)
    start = time.monotonic()
    for pid in processes:
        os.kill(pid, signal.SIGTERM)
    outcome = gangs.wait(gang)
    assert time.monotonic() - start < 30
    run = read_run(tmp_path)
    assert outcome.status == run.status == "preempted"
    assert run.points[-1].step == outcome.step < 4000
    assert (tmp_path / "checkpoints" / f"step-{outcome.step}").is_dir()
    gang.submit(config, tmp_path)
    wait_for(lambda: read_tail(tmp_path).step > outcome.step)
    gang.stop()
    gangs.wait(gang)
    assert read_run(tmp_path).attempts[-1].resumed_from == outcome.step


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


def test_a_failed_run_is_no_failed_start(run_config: Make, gangs: Any, tmp_path: Path):
    config = run_config(data__train=str(tmp_path / "nowhere"))
    outcome_run = gangs.run(config, tmp_path / "run")
    assert outcome_run.status == "failed"
    assert "nowhere" in outcome_run.end.reason
    assert "did not start" not in outcome_run.end.reason
    assert "Traceback" in (tmp_path / "run" / "rank-0.log").read_text()


def test_the_watchdog_comes_before_a_collective_gives_up(run_config: Make, gangs: Any):
    """In the groups that DeepSpeed makes too: NCCL's own timeout is of ten minutes."""
    gang = gangs.of(run_config(parallel__step_timeout=1000))
    assert ray.get(gang._actors[0].__ray_call__.remote(timeouts)) == [2000.0, 2000.0]


def timeouts(worker: Any) -> list[float]:
    import torch.distributed as dist

    groups = (dist.group.WORLD, dist.new_group([0]))
    backends = [group._get_backend(torch.device("cpu")) for group in groups]
    return [backend.options._timeout.total_seconds() for backend in backends]


class Lost(Worker):
    """Rank 0 dies with its store when it should join."""

    def join(self, place: Place, meeting: tuple[str, int], *nodes: str) -> None:
        if place.rank == 0:
            os._exit(1)
        super().join(place, meeting, *nodes)


def elsewhere() -> str:
    """An address that no machine has, and no two processes."""
    return f"198.18.{os.getpid() // 256 % 256}.{os.getpid() % 256}"


@pytest.mark.parametrize(
    ("name", "broken", "told"),
    [
        ("get_node_ip_address", elsewhere, "Cannot assign requested address"),
        ("RANK", ray.remote(Lost), "a rank's process died"),
    ],
)
def test_a_failed_start_is_no_failed_run(
    run_config: Make,
    gangs: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    broken: Any,
    told: str,
):
    from launch import gang

    config = run_config(parallel__ranks=2)
    gangs.close()
    gangs.idle.clear()
    monkeypatch.setattr(gang, name, broken)
    run = gangs.run(config, tmp_path)
    assert run.status == "failed"
    assert run.end.reason.startswith("the gang did not start: ")
    assert told in run.end.reason
    assert not gangs.idle


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

    config = run_config(train__steps=1500, train__checkpoint_every=20, parallel__ranks=1)
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
    assert [point.step for point in run.points] == list(range(1, 1501))
    assert (len(run.attempts), run.status) == (2, "finished")
    with pytest.raises(FencedError, match="epoch 2, not 1"):
        old.submit(config, tmp_path)
    new.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_gangs_that_start_at_once_all_train(run_config: Make, tmp_path: Path):
    """On a Ray with room for them, while others hold the ports that PyTorch is used to."""
    run_config(parallel__ranks=2).write(tmp_path / "run.json")
    code = f"from {__name__} import *; start_eight(Path({str(tmp_path)!r}))"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=800)
    runs = [read_run(tmp_path / str(number)) for number in range(8)]
    assert [(run.status, run.attempts[-1].world) for run in runs] == [("finished", 2)] * 8
    assert all(curve(run) == curve(runs[0]) for run in runs)


def start_eight(folder: Path) -> None:
    from launch import cluster
    from launch.gang import Gang, wait_any

    config = RunConfig.read(folder / "run.json")
    held = [socket.create_server(("127.0.0.1", port)) for port in range(29500, 29510)]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temp:
        cluster.local(cpus=16, temp_dir=Path(temp))
        going = [Gang(config.parallel) for _ in range(8)]
        for number, gang in enumerate(going):
            gang.submit(config, folder / str(number))
        while going:
            for gang, _ in wait_any(going, 5):
                gang.close()
                going.remove(gang)
        cluster.shutdown()
    for server in held:
        server.close()
    os._exit(0)
