"""The Ray cluster that gangs run on: this machine's own, or one that is there."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

QUIET = {
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def local(cpus: int, gpus: int = 0, temp_dir: Path | None = None) -> None:
    """Start a cluster of this process's own, on loopback, which ends with it or at `shutdown`.

    `temp_dir` must be short: Ray keeps sockets in it, whose paths may have 107 bytes.
    """
    _on_loopback(True)
    _connect(
        address="local",
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        _temp_dir=str(temp_dir) if temp_dir else None,
    )


def connect(address: str) -> None:
    """Join a running cluster; `auto` is the one that RAY_ADDRESS names, or this machine's.

    Raises:
        ValueError: the address is not loopback and RAY_AUTH_MODE is not `token`, so anybody who
            reaches the cluster could run code on it (CVE-2023-48022).
    """
    named = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    host = named.removeprefix("ray://").rsplit(":", 1)[0].strip("[]")
    mode = os.environ.get("RAY_AUTH_MODE", "unset")
    if host not in ("auto", *LOOPBACK) and mode != "token":
        raise ValueError(
            f"cluster address {named} is not on this machine and RAY_AUTH_MODE is {mode}; "
            "allowed: RAY_AUTH_MODE=token"
        )
    _on_loopback(host in LOOPBACK)
    _connect(address=address)


def shutdown() -> None:
    """Leave the cluster; one that `local` started ends."""
    ray.shutdown()


def _on_loopback(alone: bool) -> None:
    """Ray listens on every interface unless it is told, as on macOS, that no other node will come:
    this process by the constant it has read already, its children by the environment."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0" if alone else "1"
    ray_constants.ENABLE_RAY_CLUSTER = not alone


def _connect(**options: object) -> None:
    """Ray exits at SIGTERM wherever it stands: whoever set a handler before keeps it, and is asked
    what to do where the signal comes while Ray starts."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except SystemExit as end:
        if callable(handler) and end.code == signal.SIGTERM:
            handler(signal.SIGTERM, None)
        raise
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def resources() -> dict[str, float]:
    """What the cluster has in all: CPU, GPU, memory in bytes."""
    total: dict[str, float] = ray.cluster_resources()
    return total


@dataclass(frozen=True)
class Node:
    """A node of the cluster; `resources` are its CPU, GPU and memory."""

    id: str
    address: str
    is_alive: bool
    resources: dict[str, float]


def nodes() -> list[Node]:
    """Every node that the cluster has or had."""
    return [
        Node(node["NodeID"], node["NodeManagerAddress"], node["Alive"], node["Resources"])
        for node in ray.nodes()
    ]


def blind_nodes(folder: Path, seconds: float) -> list[str]:
    """Addresses of the living nodes on which a file made in `folder` here is not to be seen, after
    at most `seconds`."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".seen-") as probe:
        asked = {
            _asked(_sees, node).remote(probe.name): node.address
            for node in nodes()
            if node.is_alive
        }
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
        return sorted(asked[answer] for answer in done if not _is_true(answer))


def _asked(function: Callable[..., Any], node: Node) -> Any:
    """A task that a node runs beside whatever else it does."""
    there = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(function).options(num_cpus=0, scheduling_strategy=there)


def _sees(path: str) -> bool:
    return Path(path).exists()


def _is_true(answer: Any) -> bool:
    """A node that was lost meanwhile is none that sees nothing."""
    try:
        return bool(ray.get(answer))
    except RayError:
        return True


def wait_for_nodes(wanted: int, seconds: float) -> int:
    """How many nodes live: as soon as there are `wanted`, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := sum(node.is_alive for node in nodes())) < wanted:
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return found
