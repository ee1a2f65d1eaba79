"""A study on four machines, disturbed in every way: it ends as the undisturbed one, each run once.

Where this machine lends no network namespaces, its raylets stand in for three machines.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.pipeline.nodes import Cluster, Machines, Raylets, wait_for, why_no_machines

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]
BUDGET = "3e9"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("machines")
    made = Raylets(root, 3) if why_no_machines() else Machines(root, 4)
    with made.running() as running:
        yield running


@pytest.fixture
def machines(cluster: Cluster) -> Machines:
    if not isinstance(cluster, Machines):
        pytest.skip(f"raylets are no machines, and there are none: {why_no_machines()}")
    return cluster


@pytest.fixture
def whole(cluster: Cluster) -> Iterator[None]:
    """A cluster with all its nodes, and again after the test has broken it."""
    yield
    cluster.down()
    cluster.up()


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> dict[str, list[tuple[int, float]]]:
    study = cluster.study("undisturbed", BUDGET)
    cluster("submit", study, "-c", cluster.file, "--follow")
    assert cluster.end_of("undisturbed") == "finished"
    assert {len(record.attempts) for record in cluster.records("undisturbed").values()} == {1}
    return cluster.results("undisturbed")


def begin(cluster: Cluster, name: str, ended: int = 0) -> Path:
    study = cluster.study(name, BUDGET)
    cluster("submit", study, "-c", cluster.file)
    wait_for(lambda: cluster.is_training(name, ended))
    return study


def assert_same(
    cluster: Cluster, name: str, undisturbed: dict[str, list[tuple[int, float]]]
) -> None:
    """The results are those of the undisturbed study to the bit, and no run was finished twice."""
    assert cluster.results(name) == undisturbed
    for journal in cluster.journals(name).values():
        assert journal.count(b'"status":"finished"') == 1


def test_a_gang_has_a_rank_on_every_node(cluster: Cluster):
    study, ranks = cluster.study("wide"), cluster.nodes
    cluster("submit", study, f"parallel.ranks={ranks}", "-c", cluster.file, "--follow")
    assert cluster.end_of("wide") == "finished"
    assert {record.attempts[-1].world for record in cluster.records("wide").values()} == {ranks}


def test_a_machine_without_the_shared_folder_is_named_before_anything_starts(machines: Machines):
    """Another disk hides it there, as a mount does that was forgotten."""
    hidden = ("mount", "-t", "tmpfs", "none", str(machines.shared))
    machines.on(1, *hidden)
    try:
        machines("submit", machines.study("hidden"), "-c", machines.file)
        assert machines.end_of("hidden") == "failed"
    finally:
        machines.on(1, "umount", str(machines.shared))
    told = machines("logs", "hidden", "-c", machines.file)
    assert f"{machines.shared} is there on node0" in told
    assert "is not seen on 10.77.0.2; every node must have that folder" in told
    assert machines.runs("hidden") == {}


def test_a_machine_that_loses_power_costs_nothing_but_time(cluster: Cluster, whole, undisturbed):
    begin(cluster, "smaller")
    if isinstance(cluster, Machines):
        cluster.power_off(1)
    else:
        for process in cluster.node(1):
            process.kill()
    assert cluster.end_of("smaller") == "finished"
    assert_same(cluster, "smaller", undisturbed)


def test_a_machine_that_freezes_wakes_to_find_its_runs_another_s(
    cluster: Cluster, whole, undisturbed
):
    begin(cluster, "frozen")
    frozen = cluster.freeze(1)
    try:
        assert cluster.end_of("frozen") == "finished"
    finally:
        for process in frozen:
            process.resume()
    assert_nothing_is_added(cluster, "frozen")
    assert_same(cluster, "frozen", undisturbed)


def test_a_machine_cut_off_from_the_network_writes_no_line_more(
    machines: Machines, whole, undisturbed
):
    """Its ranks go on for a while: they see the shared folder, and nobody tells them."""
    begin(machines, "cut")
    lost = machines.node(1)
    machines.plug(1, False)
    assert machines.end_of("cut") == "finished"
    machines.plug(1, True)
    assert_nothing_is_added(machines, "cut")
    assert_same(machines, "cut", undisturbed)
    _, left = psutil.wait_procs([each for each in lost if "ray::" in name_of(each)], timeout=90)
    assert left == []


def test_a_killed_driver_is_replaced_by_the_next(cluster: Cluster, undisturbed):
    study = begin(cluster, "orphaned", ended=1)
    cluster.driver().kill()
    assert cluster.end_of("orphaned") == "failed"
    before = cluster.journals("orphaned", "finished")
    cluster("resume", study, "-c", cluster.file, "--follow")
    assert cluster.end_of("orphaned") == "finished"
    assert before.items() <= cluster.journals("orphaned").items()
    assert_same(cluster, "orphaned", undisturbed)


def test_a_lost_head_costs_no_finished_run(cluster: Cluster, undisturbed):
    study = begin(cluster, "headless", ended=1)
    for process in cluster.node(0):
        process.kill()
    before = cluster.journals("headless", "finished")
    cluster.down()
    cluster.up()
    cluster("submit", study, "-c", cluster.file, "--follow")
    assert cluster.end_of("headless") == "finished"
    assert before.items() <= cluster.journals("headless").items()
    assert_same(cluster, "headless", undisturbed)


def test_a_second_driver_on_another_machine_is_told_who_leads(machines: Machines, undisturbed):
    study = begin(machines, "led")
    with second(machines, study) as follower:
        told, _ = follower.communicate(timeout=600)
    assert follower.returncode == 3, told
    assert "already being run by" in told
    assert "@node0 pid" in told
    assert machines.end_of("led") == "finished"
    assert_same(machines, "led", undisturbed)


def test_a_leader_that_was_frozen_finds_another_and_writes_no_more(
    machines: Machines, whole, undisturbed
):
    """Its ranks hold their slots until it wakes: the next leader trains on when it has gone."""
    study = begin(machines, "replaced")
    frozen = machines.driver()
    frozen.suspend()
    with second(machines, study) as follower:
        wait_for((machines.shared / "replaced" / "leader-2.json").is_file)
        time.sleep(5)
        frozen.resume()
        told, _ = follower.communicate(timeout=600)
    assert follower.returncode == 0, told
    assert "looking for 60 s at most whether that one lives" in told
    assert machines.end_of("replaced") == "failed"
    assert "the lead was lost to" in machines("logs", "replaced", "-c", machines.file)
    assert_same(machines, "replaced", undisturbed)


def second(machines: Machines, study: Path):
    """A driver of the same study on another machine of the cluster."""
    told = ("--cluster", machines.file, f"output={machines.shared}")
    return machines.start_on(1, "run", study, *told)


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def assert_nothing_is_added(cluster: Cluster, name: str) -> None:
    journals = cluster.journals(name)
    time.sleep(10)
    assert cluster.journals(name) == journals
