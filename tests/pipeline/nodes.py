"""Clusters for tests: machines with a network of their own where this one allows it, else raylets.

Both are used by the command alone, as a user has it, and end a study in a folder that all share.
"""

from __future__ import annotations

import functools
import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil

from launch.journal import RunRecord, read_run
from launch.local_cluster import find
from launch.process import family
from launch.tail import read_tail

STUDY = """\
name: %(name)s
corpus: {name: texts, source: {kind: code, root: %(corpus)s}, heldout: 0.2}
tokenizer: {kind: bpe, vocab_size: 280}
architectures: {dense: {recipe: llama}}
grid: {type: isoflop, budgets: [%(budget)s], sizes: 4, spread: 2, min_steps: 4, max_epochs: 1000}
rule: {name: constant, learning_rate: 0.01, batch_tokens: 128}
train: {sequence_length: 32, evaluations: 2, eval_tokens: 512, log_points: 50, checkpoint_steps: 50}
fit: {resamples: 100}
"""
WORDS = ["def", "class", "return", "import", "value", "total", "for", "item", "in"]
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-9f3a",
    "HF_TOKEN": "planted-hub-1c7e",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-55d0",
    "PGPASSWORD": "planted-pg-8e21",
}


def wait_for(condition: Callable[[], bool], seconds: float = 300, every: float = 0.1) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every)


class Cluster(ABC):
    """The command as a user has it, and what it left on the disk."""

    file: str
    nodes: int
    entry: tuple[str, ...] = ()
    """What brings a command onto the login node."""
    command = (str(Path(sys.executable).with_name("isoflop")),)

    def __init__(self, root: Path) -> None:
        self.root, self.shared = root, root / "studies"
        self.state = root / "state" / "isoflop" / "local"
        self.environment = os.environ | SECRETS | {"XDG_STATE_HOME": str(root / "state")}
        corpus = root / "corpus"
        corpus.mkdir()
        self.shared.mkdir()
        for number in range(200):
            choose = random.Random(number).choices
            lines = [" ".join(choose(WORDS, k=9)) for _ in range(12)]
            (corpus / f"{number:03d}.py").write_text("\n".join(lines))

    @abstractmethod
    def up(self) -> None: ...

    @abstractmethod
    def down(self) -> None: ...

    @abstractmethod
    def node(self, number: int) -> list[psutil.Process]:
        """The processes of a node, the head's first."""

    @contextmanager
    def running(self) -> Iterator[Self]:
        try:
            self.up()
            yield self
        finally:
            self.down()

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        with self.start(*arguments, stderr=subprocess.PIPE) as process:
            output, errors = process.communicate(timeout=600)
        assert process.returncode == code, output + errors
        return output + errors

    def start(
        self,
        *arguments: str | Path,
        stderr: int | None = None,
        entry: tuple[str, ...] | None = None,
        own_session: bool = False,
        **variables: str,
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*(self.entry if entry is None else entry), *self.command, *map(str, arguments)],
            cwd=self.root,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=own_session,
        )

    def freeze(self, number: int) -> list[psutil.Process]:
        """Stop every process of a node, and return them."""
        frozen = self.node(number)
        for process in frozen:
            process.suspend()
        return frozen

    def driver(self) -> psutil.Process:
        """The process that leads a study, on the head as every job of Ray's."""
        [found] = [
            process
            for process in self.node(0)
            if process.cmdline()[1:4] == ["-m", "pipeline", "run"]
        ]
        return found

    def study(self, name: str, budget: str = "2e8") -> Path:
        path = self.root / f"{name}.yaml"
        path.write_text(STUDY % {"name": name, "budget": budget, "corpus": self.root / "corpus"})
        return path

    def state_of(self, name: str) -> str:
        jobs = json.loads(self("jobs", "-c", self.file, "--json"))
        return [job["state"] for job in jobs if job["study"] == name][-1]

    def end_of(self, name: str) -> str:
        wait_for(lambda: self.state_of(name) not in ("waiting", "running"), 600, every=2)
        return self.state_of(name)

    def folders(self, name: str) -> list[Path]:
        return sorted((self.shared / name / "runs").glob("*"))

    def runs(self, name: str) -> dict[str, str]:
        return {folder.name: read_tail(folder).status for folder in self.folders(name)}

    def journals(self, name: str, status: str = "") -> dict[str, bytes]:
        """Journals as they stand, of those runs that are in a state if one is asked for."""
        return {
            folder.name: (folder / "journal.jsonl").read_bytes()
            for folder in self.folders(name)
            if read_tail(folder).status == status or not status
        }

    def records(self, name: str) -> dict[str, RunRecord]:
        return {folder.name.rsplit("-", 1)[0]: read_run(folder) for folder in self.folders(name)}

    def results(self, name: str) -> dict[str, list[tuple[int, float]]]:
        """What each run came to: its losses and evaluations by step."""
        return {
            run: [(point.step, point.loss) for point in (*record.points, *record.evals)]
            for run, record in self.records(name).items()
        }

    def is_training(self, name: str, ended: int = 0) -> bool:
        """Whether a run is under way that has saved its state, and so many have finished."""
        states = list(self.runs(name).values())
        is_saved = any((self.shared / name / "runs").glob("*/checkpoints/step-*"))
        return states.count("finished") >= ended and "running" in states and is_saved


class Raylets(Cluster):
    """`isoflop cluster up`: nodes that share this machine's network, pids and name."""

    file = "local"

    def __init__(self, root: Path, nodes: int) -> None:
        super().__init__(root)
        self.nodes = nodes

    def up(self) -> None:
        self("cluster", "up", "--local", str(self.nodes), "--cpus", "1")

    def down(self) -> None:
        if (self.state / "cluster.json").exists():
            self("cluster", "down")

    def node(self, number: int) -> list[psutil.Process]:
        cluster = find(self.state)
        assert cluster
        return family(*cluster.nodes[number])


NODE = """\
hostname %(name)s
%(python)s -m ray.scripts.scripts start --block --disable-usage-stats --num-cpus=1 --num-gpus=0 \
  --node-ip-address=%(address)s --temp-dir=%(temp)s %(options)s &
wait
"""
HEAD = "10.77.0.1"
OPEN_SECONDS = 300


class Machines(Cluster):
    """Nodes with a network address, a space of pids, a name and temporary files of their own.

    Those of the network are namespaces at a bridge, which is in that of the login node, so that
    nothing outside of these is touched. Ray is told to give a silent node up after seconds rather
    than a minute.
    """

    def __init__(self, root: Path, nodes: int) -> None:
        super().__init__(root)
        self.nodes, self._names = nodes, f"isoflop-{os.getpid()}"
        self._inits: list[subprocess.Popen[bytes]] = []
        self.entry = ("ip", "netns", "exec", self._net())
        token, file = root / "token", root / "lab.yaml"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.file = str(file)
        self._member = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        (root / "scratch").mkdir()
        file.write_text(
            f"kind: ray\ndashboard: http://{HEAD}:8265\ntoken_file: {token}\nnodes: {nodes}\n"
            f"cpus_per_node: 1\nshared: {self.shared}\nscratch: {root / 'scratch'}\n"
            f"python: {sys.executable}\n"
        )

    def up(self) -> None:
        ip("netns", "add", self._net())
        self._in_login("link", "add", "bridge", "type", "bridge")
        self._in_login("addr", "add", "10.77.0.254/24", "dev", "bridge")
        for link in ("bridge", "lo"):
            self._in_login("link", "set", link, "up")
        for number in range(self.nodes):
            self._wire(number)
        self._boot(0, f"--head --port=6379 --dashboard-host={HEAD} --include-dashboard=true")
        wait_for(lambda: self._has_begun(0), OPEN_SECONDS)
        for number in range(1, self.nodes):
            self._boot(number, f"--address={HEAD}:6379")
        for number in range(1, self.nodes):
            wait_for(lambda number=number: self._has_begun(number), OPEN_SECONDS)

    def down(self) -> None:
        for init in self._inits:
            init.kill()
            init.wait()
        self._inits = []
        for number in range(self.nodes):
            shutil.rmtree(self._temp(number), ignore_errors=True)
        for number in (None, *range(self.nodes)):
            subprocess.run(["ip", "netns", "delete", self._net(number)], stderr=subprocess.DEVNULL)

    def node(self, number: int) -> list[psutil.Process]:
        return psutil.Process(self._inits[number].pid).children(recursive=True)

    def power_off(self, number: int) -> None:
        """End everything on a machine at one blow."""
        self._inits[number].kill()
        self._inits[number].wait()

    def plug(self, number: int, is_in: bool) -> None:
        """Cut a machine off from the network, or connect it again."""
        self._in_login("link", "set", f"node{number}", "up" if is_in else "down")

    def start_on(self, number: int, *arguments: str | Path) -> subprocess.Popen[str]:
        """The command on a node, which is a member of the cluster."""
        joined = self._member | {"RAY_ADDRESS": f"{HEAD}:6379"}
        entry = self._entry(number)
        return self.start(*arguments, stderr=subprocess.STDOUT, entry=entry, **joined)

    def on(self, number: int, *command: str) -> None:
        """Any command on a node."""
        subprocess.run([*self._entry(number), *command], check=True)

    def _entry(self, number: int) -> tuple[str, ...]:
        init = self.node(number)[0].pid
        return ("nsenter", f"--target={init}", "--pid", "--net", "--uts", "--mount")

    def _net(self, number: int | None = None) -> str:
        return self._names if number is None else f"{self._names}-{number}"

    def _temp(self, number: int) -> Path:
        """Outside of the test's folder: Ray's sockets have short names only."""
        return Path("/tmp") / self._net(number)

    def _in_login(self, *arguments: str) -> None:
        ip("-n", self._net(), *arguments)

    def _wire(self, number: int) -> None:
        net, link = self._net(number), f"node{number}"
        ip("netns", "add", net)
        self._in_login("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", net)
        self._in_login("link", "set", link, "master", "bridge", "up")
        ip("-n", net, "addr", "add", f"10.77.0.{number + 1}/24", "dev", "eth0")
        for each in ("eth0", "lo"):
            ip("-n", net, "link", "set", each, "up")

    def _boot(self, number: int, options: str) -> None:
        script = NODE % {
            "name": f"node{number}",
            "python": sys.executable,
            "address": f"10.77.0.{number + 1}",
            "temp": self._temp(number),
            "options": options,
        }
        isolated = ("setpriv", "--pdeathsig=KILL", "ip", "netns", "exec", self._net(number))
        isolated += ("unshare", "--pid", "--fork", "--mount-proc", "--uts", "--kill-child=KILL")
        times = {
            "RAY_health_check_period_ms": "2000",
            "RAY_health_check_timeout_ms": "5000",
            "RAY_raylet_start_wait_time_s": str(OPEN_SECONDS),
        }
        with self._log(number).open("wb") as log:
            self._inits.append(
                subprocess.Popen(
                    [*isolated, "bash", "-c", script],
                    env=self.environment | self._member | times,
                    cwd=self.root,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def _has_begun(self, number: int) -> bool:
        told = self._log(number).read_bytes()
        assert self._inits[number].poll() is None, told.decode(errors="replace")
        return b"Ray runtime started" in told

    def _log(self, number: int) -> Path:
        return self.root / f"node-{number}.log"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@functools.cache
def why_no_machines() -> str:
    """What this machine lacks for `Machines`; empty if it has everything."""
    tools = [tool for tool in ("ip", "unshare", "nsenter", "setpriv") if not shutil.which(tool)]
    if tools:
        return f"no {', '.join(tools)} here"
    name = f"isoflop-{os.getpid()}-try"
    isolated = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "true"]
    steps = (
        ["ip", "netns", "add", name],
        ["ip", "-n", name, "link", "add", "bridge", "type", "bridge"],
        ["ip", "netns", "exec", name, *isolated],
    )
    try:
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True)
            if done.returncode:
                return f"{' '.join(step[:3])}: {done.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    return ""
