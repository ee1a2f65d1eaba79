"""A Ray cluster of several nodes on this machine: each a raylet of its own, all on loopback.

What is up is written into a folder of the user's own (mode 0700), token and all; `down` ends those
processes and no others.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from launch.cluster import QUIET
from launch.process import born, family

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parent.parent
FILE = "cluster.json"
TOKEN = "token"
START_SECONDS = 180.0
STOP_SECONDS = 5.0


class LocalClusterError(ValueError):
    """The cluster is there already, is not there, or did not start."""


@dataclass(frozen=True)
class LocalCluster:
    """What is up. `nodes` are the processes of `ray start`, the head first; each has `cpus`.

    `shared` is the folder of its studies, wherever they are asked for from.
    """

    address: str
    dashboard: str
    token_file: str
    temp_dir: str
    cpus: int
    gpus: int
    shared: str
    nodes: list[tuple[int, str]]

    def write(self, folder: Path) -> None:
        """Keep it for `find` and `down`."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    def processes(self) -> list[psutil.Process]:
        """Those of its nodes that live, each with all that it started."""
        return [process for pid, birth in self.nodes for process in family(pid, birth)]


def find(folder: Path) -> LocalCluster | None:
    """The cluster that is up in `folder`, if its head lives."""
    try:
        found = LocalCluster(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.nodes and family(*found.nodes[0]) else None


def up(
    folder: Path,
    nodes: int,
    cpus: int,
    shared: Path,
    gpus: int = 0,
    scratch: Path | None = None,
    say: Callable[[str], None] = print,
) -> LocalCluster:
    """Start a head and `nodes` - 1 workers of `cpus` and `gpus` each, behind a token.

    Raises:
        LocalClusterError: one is up already, or a node did not start; then none is left.
    """
    if find(folder):
        raise LocalClusterError("a local cluster is up already; `isoflop cluster down` ends it")
    if (folder / FILE).exists():
        down(folder)  # what a lost head has left
    token = _make_token(folder)
    port, dashboard = _free_ports(2)
    temp_dir = tempfile.mkdtemp(prefix="ray-", dir=scratch or "/tmp")
    address, url = f"{HOST}:{port}", f"http://{HOST}:{dashboard}"
    cluster = LocalCluster(address, url, token, temp_dir, cpus, gpus, str(shared), nodes=[])
    cluster.write(folder)
    head = ["--head", f"--port={port}", "--include-dashboard=true"]
    head += [f"--dashboard-host={HOST}", f"--dashboard-port={dashboard}"]
    try:
        _begin(cluster, folder, range(1), head, say)
        _begin(cluster, folder, range(1, nodes), [f"--address={address}"], say)
    except BaseException:
        down(folder)
        raise
    return cluster


def down(folder: Path) -> int:
    """End the cluster that was started from `folder`; how many processes that were."""
    try:
        cluster = LocalCluster(**json.loads((folder / FILE).read_text()))
    except FileNotFoundError:
        raise LocalClusterError("no local cluster is up") from None
    found = cluster.processes()
    _end(found)
    shutil.rmtree(cluster.temp_dir, ignore_errors=True)
    for name in (FILE, TOKEN):
        (folder / name).unlink(missing_ok=True)
    return len(found)


def environment(token_file: str) -> dict[str, str]:
    """What a process of the cluster, or one that joins it, needs of its environment."""
    return QUIET | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": token_file,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_raylet_start_wait_time_s": f"{START_SECONDS:.0f}",
    }


def _make_token(folder: Path) -> str:
    """A new token in a file of the user's alone."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    path = folder / TOKEN
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    path.chmod(0o600)
    return str(path)


def _begin(
    cluster: LocalCluster,
    folder: Path,
    numbers: range,
    options: list[str],
    say: Callable[[str], None],
) -> None:
    """Start these nodes side by side, each with temporary files of its own, and wait for all."""
    options = [*options, f"--num-cpus={cluster.cpus}", f"--num-gpus={cluster.gpus}"]
    started = []
    for number in numbers:
        node = _start(folder, number, [*options, f"--temp-dir={cluster.temp_dir}/{number}"])
        started.append(node)
        cluster.nodes.append((node.pid, born(node.pid)))
        cluster.write(folder)
    for number, node in zip(numbers, started, strict=True):
        _wait(node, folder / f"node-{number}.log", cluster.dashboard)
        say(f"node {number + 1} is up, with {cluster.cpus} CPUs and {cluster.gpus} GPUs")


def _start(folder: Path, number: int, options: list[str]) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "launch.ray_start", "--dashboard-agent-listen-port=0"),
        *options,
    ]
    inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with (folder / f"node-{number}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=inherited | environment(str(folder / TOKEN)),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(node: subprocess.Popen[bytes], log: Path, dashboard: str) -> None:
    """Until `ray start` says that the node runs, and the dashboard of the cluster answers."""
    deadline = time.monotonic() + START_SECONDS
    while not (b"Ray runtime started" in log.read_bytes() and _answers(dashboard)):
        if node.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise LocalClusterError(f"a Ray node did not start ({log}):\n{tail}")
        time.sleep(0.2)


def _answers(dashboard: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, int(dashboard.rpartition(":")[2]))) == 0


def _end(processes: Iterable[psutil.Process]) -> None:
    left = list(processes)
    for signal_all in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            try:
                process.resume()
                signal_all(process)
            except psutil.NoSuchProcess:
                pass
        _, left = psutil.wait_procs(left, timeout=STOP_SECONDS)


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports
