"""Where Ray puts gangs, on two nodes of which only the one that is not the head has a GPU.

There is none: Ray takes the number on trust, and gangs that ask for a part of it are looked at
before they train.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import local_cluster
from launch.config import ParallelConfig, RunConfig
from launch.journal import read_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a process that joins the two nodes."""
    state, shared = (tmp_path_factory.mktemp(name) for name in ("state", "shared"))
    head = local_cluster.up(state, nodes=1, cpus=4, shared=shared)
    try:
        worker = replace(head, gpus=1)
        local_cluster._begin(worker, state, range(1, 2), [f"--address={head.address}"], print)
        told = local_cluster.environment(head.token_file) | {"RAY_ADDRESS": head.address}
        yield os.environ | told | {"OMP_NUM_THREADS": "1"}
    finally:
        local_cluster.down(state)


@pytest.fixture
def there(environment: dict[str, str]) -> Callable[..., Any]:
    """Call a function of this module in a process that has joined; what it returns is JSON."""

    def call(function: Callable[..., Any], *arguments: str | Path) -> Any:
        code = f"from {__name__} import *; joined({function.__name__}, {[*map(str, arguments)]})"
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, timeout=200, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])

    return call


def joined(function: Callable[..., Any], arguments: list[str]) -> None:
    from launch import cluster

    cluster.connect("auto")
    print(json.dumps(function(*arguments)))
    sys.stdout.flush()
    os._exit(0)


def homes(gang: Any) -> list[bool]:
    """Of each rank, whether its node is the one with the GPU; waits until all have a place."""
    import ray
    from ray.util import placement_group_table

    from launch import cluster

    ray.get(gang._placed, timeout=60)
    gpus = {node.id: node.resources.get("GPU", 0) > 0 for node in cluster.nodes()}
    return [
        gpus[node] for node in placement_group_table(gang._group)["bundles_to_node_id"].values()
    ]


def packed_and_spread(config: str, folder: str) -> tuple[list[bool], list[bool], str]:
    from launch.gang import Gang, wait_any

    run = RunConfig.read(Path(config))
    spread = Gang(run.parallel)
    packed = Gang(run.parallel.model_copy(update={"placement": "pack"}))
    found = homes(packed), homes(spread)
    packed.close()
    spread.submit(run, Path(folder))
    while not (ended := wait_any([spread], 5)):
        pass
    return *found, ended[0][1].status


@pytest.mark.slow
@pytest.mark.cluster
def test_ranks_are_packed_or_spread_over_nodes(
    there: Callable[..., Any], run_config: Callable[..., RunConfig], tmp_path: Path
):
    config = run_config(parallel__ranks=2, parallel__placement="spread")
    config.write(tmp_path / "run.json")
    packed, spread, status = there(packed_and_spread, tmp_path / "run.json", tmp_path / "run")
    assert len(set(packed)) == 1
    assert len(set(spread)) == 2
    assert status == "finished", read_run(tmp_path / "run").end
    assert read_run(tmp_path / "run").attempts[-1].world == 2


def with_a_gpu() -> list[bool]:
    from launch.gang import Gang

    return homes(Gang(ParallelConfig(gpus_per_rank=1.0)))


@pytest.mark.slow
@pytest.mark.cluster
def test_a_head_without_a_gpu_gets_no_rank_that_needs_one(there: Callable[..., Any]):
    """It has CPUs enough."""
    assert there(with_a_gpu) == [True]


def halves() -> list[str]:
    """The GPUs that those of three gangs see which have a place at once."""
    import ray

    from launch.gang import Gang

    gangs = [Gang(ParallelConfig(gpus_per_rank=0.5)) for _ in range(3)]
    ray.wait([gang._placed for gang in gangs], num_returns=2, timeout=60)
    return [
        ray.get(gang._actors[0].__ray_call__.remote(lambda _: os.environ["CUDA_VISIBLE_DEVICES"]))
        for gang in gangs
        if gang.is_placed
    ]


@pytest.mark.slow
@pytest.mark.cluster
def test_two_gangs_share_a_gpu_and_a_third_waits(there: Callable[..., Any]):
    assert there(halves) == ["0", "0"]


def test_where_ranks_are_does_not_make_another_run(run_config: Callable[..., RunConfig]):
    packed, spread = run_config(), run_config(parallel__placement="spread")
    assert packed.fingerprint() == spread.fingerprint()
    assert "placement" not in packed.parallel.model_dump_json()
