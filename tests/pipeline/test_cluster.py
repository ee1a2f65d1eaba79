"""A study on a real cluster of two Ray nodes of this machine: submitted, followed, and disturbed.

Nodes are raylets with processes, folders and resources of their own; what they share is the kernel.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launch.journal import read_progress, read_run
from launch.local_cluster import find
from launch.process import family

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
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-9f3a",
    "HF_TOKEN": "planted-hub-1c7e",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-55d0",
    "PGPASSWORD": "planted-pg-8e21",
}

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


class Cluster:
    """The command as a user has it, and what it left on the disk."""

    def __init__(self, root: Path) -> None:
        self.root, self.state = root, root / "state" / "isoflop" / "local"
        self.environment = os.environ | SECRETS | {"XDG_STATE_HOME": str(root / "state")}
        corpus = root / "corpus"
        corpus.mkdir()
        for number in range(200):
            choose = random.Random(number).choices
            words = ["def", "class", "return", "import", "value", "total", "for", "item", "in"]
            lines = [" ".join(choose(words, k=9)) for _ in range(12)]
            (corpus / f"{number:03d}.py").write_text("\n".join(lines))

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        command = [str(Path(sys.executable).with_name("isoflop")), *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).with_name("isoflop")), *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment, stdout=subprocess.PIPE, text=True
        )

    def up(self) -> None:
        self("cluster", "up", "--local", "2", "--cpus", "1")

    def down(self) -> None:
        if (self.state / "cluster.json").exists():
            self("cluster", "down")

    def study(self, name: str, budget: str = "2e8") -> Path:
        path = self.root / f"{name}.yaml"
        path.write_text(STUDY % {"name": name, "budget": budget, "corpus": self.root / "corpus"})
        return path

    def state_of(self, name: str) -> str:
        jobs = json.loads(self("jobs", "-c", "local", "--json"))
        return [job["state"] for job in jobs if job["study"] == name][-1]

    def end_of(self, name: str) -> str:
        wait_for(lambda: self.state_of(name) not in ("waiting", "running"), 300, every=1)
        return self.state_of(name)

    def runs(self, name: str) -> dict[str, str]:
        folders = (self.root / "studies" / name / "runs").glob("*")
        return {folder.name: read_progress(folder).status for folder in folders}

    def journals(self, name: str) -> dict[str, bytes]:
        paths = (self.root / "studies" / name / "runs").glob("*/journal.jsonl")
        return {path.parent.name: path.read_bytes() for path in paths}

    def is_training(self, name: str, ended: int = 0) -> bool:
        """Whether a run is under way that has saved its state, and so many have finished."""
        folder = self.root / "studies" / name / "runs"
        states = list(self.runs(name).values())
        is_saved = any(folder.glob("*/checkpoints/step-*"))
        return states.count("finished") >= ended and "running" in states and is_saved

    def driver(self, name: str) -> int:
        [path] = (self.root / "studies" / name).glob("leader-*.json")
        return int(json.loads(path.read_text())["pid"])

    def node(self, number: int) -> list[psutil.Process]:
        cluster = find(self.state)
        assert cluster
        return family(*cluster.nodes[number])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    made.up()
    yield made
    made.down()


def wait_for(condition: Callable[[], bool], seconds: float = 120, every: float = 0.1) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every)


def test_every_node_is_on_loopback_and_nobody_enters_without_the_token(cluster: Cluster):
    import requests

    up = find(cluster.state)
    assert up
    addresses = {
        connection.laddr.ip
        for process in up.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses
    assert {address.removeprefix("::ffff:") for address in addresses} <= {"127.0.0.1", "::1"}
    assert requests.get(f"{up.dashboard}/api/jobs/").status_code == 401
    shown = json.loads(cluster("cluster", "show", "--json"))
    assert [node["state"] for node in shown] == ["ALIVE"] * 2


def test_a_study_is_submitted_once_followed_and_found_finished(cluster: Cluster):
    study = cluster.study("first")
    assert "submitted as" in cluster("submit", study, "-c", "local")
    assert "already" in cluster("submit", study, "-c", "local")
    followed = cluster("logs", "first", "-c", "local", "--follow")
    assert "Compute-optimal allocation" in followed
    assert cluster.end_of("first") == "finished"
    assert "and finished" in cluster("submit", study, "-c", "local")
    rows = json.loads(cluster("status", study, "-c", "local", "--json"))
    assert {row["status"] for row in rows} == {"finished"}
    lines = (cluster.root / "studies/first/sweeps.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]


def test_secrets_of_the_environment_are_written_nowhere(cluster: Cluster):
    """After the study above, which ran with them in the cluster's and the user's environment."""
    up = find(cluster.state)
    assert up
    values = [value.encode() for value in SECRETS.values()]
    values.append((cluster.state / "token").read_bytes())
    logs = Path(up.temp_dir).rglob("*")
    kept = (path for path in cluster.state.iterdir() if path.name != "token")
    found = [
        path
        for path in (*(cluster.root / "studies").rglob("*"), *kept, *logs)
        if path.is_file() and any(value in path.read_bytes() for value in values)
    ]
    assert found == []


def test_a_gang_of_two_ranks_spreads_over_two_nodes(cluster: Cluster):
    study = cluster.study("pair")
    cluster("submit", study, "parallel.ranks=2", "-c", "local", "--follow")
    assert cluster.end_of("pair") == "finished"
    folders = list((cluster.root / "studies/pair/runs").glob("*"))
    assert {read_run(folder).attempts[-1].world for folder in folders} == {2}


def test_a_cancelled_study_keeps_its_state_and_is_gone_on_with(cluster: Cluster):
    study = cluster.study("paused", "3e9")
    cluster("submit", study, "-c", "local")
    wait_for(lambda: cluster.is_training("paused", ended=1))
    assert "stopped" in cluster("cancel", "paused", "-c", "local")
    before = cluster.runs("paused")
    assert "preempted" in before.values()
    assert "running" not in before.values()
    finished = {
        name: text
        for name, text in cluster.journals("paused").items()
        if before[name] == "finished"
    }
    assert "goes on with it" in cluster("submit", study, "-c", "local")
    cluster("resume", study, "-c", "local", "--follow")
    assert cluster.end_of("paused") == "finished"
    assert set(cluster.runs("paused").values()) == {"finished"}
    after = cluster.journals("paused")
    assert {name: after[name] for name in finished} == finished, "a finished run was touched again"


def test_a_killed_driver_is_replaced_by_the_next(cluster: Cluster):
    study = cluster.study("orphaned", "3e9")
    cluster("submit", study, "-c", "local")
    wait_for(lambda: cluster.is_training("orphaned"))
    os.kill(cluster.driver("orphaned"), signal.SIGKILL)
    assert cluster.end_of("orphaned") == "failed"
    cluster("resume", study, "-c", "local", "--follow")
    assert cluster.end_of("orphaned") == "finished"
    assert set(cluster.runs("orphaned").values()) == {"finished"}


def test_a_second_driver_is_told_who_leads_and_may_watch(cluster: Cluster):
    study = cluster.study("led", "3e10")
    cluster("submit", study, "-c", "local")
    wait_for(lambda: cluster.is_training("led"))
    told = cluster("run", study, code=3)
    assert f"pid {cluster.driver('led')} since" in told
    assert "is running as" in cluster("submit", study, "fit.seed=1", "-c", "local", code=3)
    with cluster.start("run", study, "--follow") as follower:
        assert follower.stdout
        shown = [next(follower.stdout) for _ in range(2)]
        follower.kill()
    assert "already being run by" in shown[0]
    assert "of 4 runs ended" in shown[1]
    assert "stopped" in cluster("cancel", "led", "-c", "local")


def test_a_killed_node_loses_its_runs_to_the_others_and_leaves_no_process(cluster: Cluster):
    study = cluster.study("smaller", "3e9")
    cluster("submit", study, "-c", "local")
    wait_for(lambda: cluster.is_training("smaller"))
    lost = cluster.node(1)
    [raylet] = [process for process in lost if process.name() == "raylet"]
    raylet.kill()
    assert cluster.end_of("smaller") == "finished"
    assert set(cluster.runs("smaller").values()) == {"finished"}
    psutil.wait_procs(lost, timeout=30)
    assert [process for process in lost if process.is_running()] == []


def test_a_killed_head_costs_no_finished_run(cluster: Cluster):
    study = cluster.study("headless", "3e9")
    cluster.down()
    cluster.up()
    cluster("submit", study, "-c", "local")
    wait_for(lambda: cluster.is_training("headless", ended=1))
    for process in cluster.node(0):
        process.kill()
    before = {
        name: text for name, text in cluster.journals("headless").items() if b'"finished"' in text
    }
    cluster.down()
    cluster.up()
    cluster("submit", study, "-c", "local", "--follow")
    assert cluster.end_of("headless") == "finished"
    after = cluster.journals("headless")
    assert {name: after[name] for name in before} == before
    assert set(cluster.runs("headless").values()) == {"finished"}


def test_a_frozen_node_wakes_to_find_its_runs_another_s(cluster: Cluster):
    """Ray takes a minute to declare it dead; its ranks then write no line more."""
    study = cluster.study("frozen", "3e9")
    cluster("submit", study, "-c", "local")
    wait_for(lambda: cluster.is_training("frozen"))
    frozen = cluster.node(1)
    for process in frozen:
        process.suspend()
    try:
        assert cluster.end_of("frozen") == "finished"
    finally:
        for process in frozen:
            process.resume()
    journals = cluster.journals("frozen")
    time.sleep(10)
    assert cluster.journals("frozen") == journals
    for folder in (cluster.root / "studies/frozen/runs").glob("*"):
        run = read_run(folder)
        steps = [point.step for point in run.points]
        assert run.status == "finished"
        assert steps == sorted(set(steps))
