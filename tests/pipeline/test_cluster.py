"""`isoflop cluster up` and what is sent there: three Ray nodes of this machine, on loopback.

Nodes that are machines, and all that can happen to them, are in test_machines.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from launch.jobs import UnreachableError
from launch.local_cluster import find
from pipeline.cluster_file import LocalCluster, RayCluster
from pipeline.config import load_study
from pipeline.package import Package
from pipeline.ray_jobs import RayJobs, cluster_at
from pipeline.submit import submit
from tests.pipeline.nodes import SECRETS, Raylets, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    with Raylets(tmp_path_factory.mktemp("cluster"), 3).running() as made:
        yield made


@pytest.fixture
def here(cluster: Raylets, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    """The cluster as this process sees it, whose jobs end at once."""
    monkeypatch.setenv("XDG_STATE_HOME", str(cluster.state.parents[1]))
    found = cluster_at("local")
    assert isinstance(found, LocalCluster)
    return found.model_copy(update={"python": "true"})


def test_every_node_is_on_loopback_and_nobody_enters_without_the_token(cluster: Raylets):
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
    for headers in ({}, {"Authorization": "Bearer open"}):
        assert requests.get(f"{up.dashboard}/api/jobs/", headers=headers).status_code in (401, 403)
    shown = json.loads(cluster("cluster", "show", "--json"))
    assert [node["state"] for node in shown] == ["ALIVE"] * 3


def test_twenty_submissions_at_once_are_one_job(here: LocalCluster):
    """Each of a terminal of its own, none of which knows of the others."""

    def send(_: int) -> bool:
        return submit(Package.of(load_study("quickstart"), here), RayJobs(here))[1]

    with ThreadPoolExecutor(20) as terminals:
        answers = list(terminals.map(send, range(20)))
    assert sorted(answers) == [False] * 19 + [True]
    jobs = RayJobs(here)
    wait_for(lambda: [job.state for job in jobs.all()] == ["finished"])


def test_a_wrong_token_and_a_wrong_address_are_told_apart(
    here: LocalCluster, cluster: Raylets, monkeypatch: pytest.MonkeyPatch
):
    up = find(cluster.state)
    assert up

    def ask(dashboard: str, token: str) -> None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        like = here.model_dump(include={"nodes", "cpus_per_node", "shared"})
        RayJobs(RayCluster(kind="ray", dashboard=dashboard, **like)).all()

    token = Path(up.token_file).read_text()
    ask(up.dashboard, token)
    with pytest.raises(UnreachableError, match="does not take this token") as refused:
        ask(up.dashboard, "sesame")
    assert "sesame" not in str(refused.value)
    with pytest.raises(UnreachableError, match=r"http://127.0.0.1:9 does not answer"):
        ask("http://127.0.0.1:9", token)


def test_a_second_cluster_is_refused(cluster: Raylets):
    assert "`isoflop cluster down` ends it" in cluster("cluster", "up", code=2)


@slow
def test_a_study_outlives_the_terminal_that_sent_it(cluster: Raylets):
    study = cluster.study("first")
    with cluster.start("submit", study, "-c", "local", "--follow", own_session=True) as terminal:
        assert terminal.stdout
        wait_for(lambda: "train" in terminal.stdout.readline())
        os.killpg(terminal.pid, signal.SIGHUP)
    assert "is isoflop-" in cluster("submit", study, "-c", "local")
    followed = cluster("logs", "first", "-c", "local", "--follow")
    assert "Compute-optimal allocation" in followed
    assert cluster.end_of("first") == "finished"
    assert "and finished" in cluster("submit", study, "-c", "local")
    rows = json.loads(cluster("status", "first", "-c", "local", "--json"))
    assert {row["status"] for row in rows} == {"finished"}
    lines = (cluster.shared / "first/sweeps.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]


@slow
def test_the_status_of_a_study_is_found_from_another_folder(cluster: Raylets, tmp_path: Path):
    shown = subprocess.run(
        [*cluster.command, "status", "first", "-c", "local", "--json"],
        cwd=tmp_path,
        env=cluster.environment,
        capture_output=True,
        text=True,
    )
    assert {row["status"] for row in json.loads(shown.stdout)} == {"finished"}, shown.stderr


@slow
def test_secrets_of_the_environment_are_written_nowhere(cluster: Raylets):
    """After the study above, which ran with them in the cluster's and the user's environment."""
    up = find(cluster.state)
    assert up
    values = [value.encode() for value in SECRETS.values()]
    values.append((cluster.state / "token").read_bytes())
    logs = Path(up.temp_dir).rglob("*")
    kept = (path for path in cluster.state.iterdir() if path.name != "token")
    places = [path for path in (*cluster.shared.rglob("*"), *kept, *logs) if path.is_file()]
    assert {path.name for path in places} >= {"journal.jsonl", "mlflow.db", "rank-0.log"}
    found = [path for path in places if any(value in path.read_bytes() for value in values)]
    assert found == []


@slow
def test_a_cancelled_study_keeps_its_state_and_is_gone_on_with(cluster: Raylets):
    study = cluster.study("paused", "3e9")
    cluster("submit", study, "-c", "local")
    wait_for(lambda: cluster.is_training("paused", ended=1))
    assert "stopped" in cluster("cancel", "paused", "-c", "local")
    before, finished = cluster.runs("paused"), cluster.journals("paused", "finished")
    assert "preempted" in before.values()
    assert "running" not in before.values()
    assert "goes on with it" in cluster("submit", study, "-c", "local")
    cluster("resume", study, "-c", "local", "--follow")
    assert cluster.end_of("paused") == "finished"
    assert set(cluster.runs("paused").values()) == {"finished"}
    after = cluster.journals("paused")
    assert finished.items() <= after.items(), "a finished run was touched again"


@slow
def test_a_second_driver_is_told_who_leads_and_may_watch(cluster: Raylets):
    study = cluster.study("led", "3e10")
    cluster("submit", study, "-c", "local")
    wait_for(lambda: cluster.is_training("led"))
    told = cluster("run", study, code=3)
    assert f"pid {cluster.driver().pid} since" in told
    assert "is running as" in cluster("submit", study, "fit.seed=1", "-c", "local", code=3)
    with cluster.start("run", study, "--follow") as follower:
        assert follower.stdout
        shown = [next(follower.stdout) for _ in range(2)]
        follower.kill()
    assert "already being run by" in shown[0]
    assert "of 4 runs ended" in shown[1]
    assert "stopped" in cluster("cancel", "led", "-c", "local")


@slow
def test_a_killed_raylet_leaves_no_process(cluster: Raylets):
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
