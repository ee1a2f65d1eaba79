"""A rank's process: where it meets its peers, and how it learns that it should stop."""

import threading
from pathlib import Path

import pytest

from launch import worker
from launch.worker import STOP_FILE, StopRequest, Worker, ask_to_stop


@pytest.mark.parametrize(
    ("nodes", "address"),
    [
        (["10.9.9.9"], "127.0.0.1"),
        (["10.9.9.9", "10.9.9.9"], "127.0.0.1"),
        (["127.0.0.2", "127.0.0.3"], "127.0.0.2"),
    ],
)
def test_ranks_of_one_node_meet_on_loopback(nodes: list[str], address: str):
    """Wherever its peers are, and whatever nodes the cluster has besides."""
    found, port = Worker(lambda: nodes[0]).meet(*nodes)
    assert found == address
    assert (port > 0) == (len(nodes) > 1)


@pytest.fixture
def request_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StopRequest:
    monkeypatch.setattr(worker, "STOP_SECONDS", -1.0)
    return StopRequest(tmp_path)


def test_a_stop_file_that_is_not_yet_written_is_read_again(request_of: StopRequest, tmp_path: Path):
    assert request_of() is None
    (tmp_path / STOP_FILE).touch()
    assert request_of() is None
    (tmp_path / STOP_FILE).write_text("cancelled")
    assert request_of() == "cancelled"


def test_a_stop_file_is_whole_whenever_it_is_read(tmp_path: Path):
    seen, over = set(), threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.add((tmp_path / STOP_FILE).read_text())

    ask_to_stop(tmp_path, "preempted")
    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(2000):
        ask_to_stop(tmp_path, "preempted")
    over.set()
    reader.join()
    assert seen == {"preempted"}
