"""Other stores than the default: a real PostgreSQL, and a server that is down and comes back."""

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from launch.config import RunConfig
from pipeline.forwarder import Forwarder
from pipeline.mlflow_ui import HOST, free_port, ui_command, ui_environment
from pipeline.record import Record
from pipeline.tracking import Tracker

Attempt = Callable[..., Path]
pytestmark = pytest.mark.slow
LACKS = [
    name
    for name, there in (
        ("initdb", shutil.which("initdb")),
        ("pg_ctl", shutil.which("pg_ctl")),
        ("psycopg", importlib.util.find_spec("psycopg")),
    )
    if not there
]


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URI of a database of a PostgreSQL of its own; run by nobody, since it refuses root."""
    folder = Path(tempfile.mkdtemp(prefix="isoflop-postgres-"))
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    data, port = str(folder / "data"), free_port(5432)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)

    try:
        run("initdb", "-D", data, "-U", "isoflop", "-A", "trust", "--no-sync")
        options = f"-p {port} -c listen_addresses={HOST} -c unix_socket_directories={folder}"
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield f"postgresql+psycopg://isoflop@{HOST}:{port}/postgres"
        run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(bool(LACKS), reason=f"no {', '.join(LACKS)} here")
def test_postgres_takes_all_that_sqlite_takes(
    postgres: str, tmp_path: Path, attempt: Attempt
) -> None:
    run = attempt()
    table = tmp_path / "table.csv"
    table.write_text("params,loss\n1,2\n")
    for _ in range(2):
        tracker = Tracker(postgres, tmp_path, "study", artifacts=(tmp_path / "store").as_uri())
        tracker.forward(run, RunConfig.read(run / "config.json"))
        tracker.log(Record("fit", "fit-dense", "1", metrics={"E": 1.7}, artifacts=(table,)))
        (run / "mlflow.json").unlink()
    found = {r.data.tags["kind"]: r for r in tracker.client.search_runs([tracker.experiment_id])}
    assert sorted(found) == ["fit", "train"]
    history = tracker.client.get_metric_history(found["train"].info.run_id, "loss")
    assert [point.step for point in history] == list(range(10, 101, 10))
    assert found["train"].data.metrics["loss"] == pytest.approx(3.01)
    assert found["train"].data.params["params_compute"] == "700"
    assert list((tmp_path / "store").rglob("table.csv"))


@pytest.fixture
def port() -> int:
    return free_port(5050)


@contextmanager
def served(folder: Path, port: int) -> Iterator[None]:
    """MLflow's server on a database in ``folder``."""
    server = subprocess.Popen(
        ui_command(folder, port),
        env=os.environ | ui_environment(f"sqlite:///{folder}/server.db"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://{HOST}:{port}/health")
        yield
    finally:
        server.terminate()
        server.wait()


def losses(tracker: Tracker) -> dict[str, list[int]]:
    """The steps of the curve of every run that the store has, by the run's name."""
    runs = tracker.client.search_runs([tracker.experiment_id])
    history = tracker.client.get_metric_history
    return {r.info.run_name: [p.step for p in history(r.info.run_id, "loss")] for r in runs}


def test_a_server_that_is_down_to_the_end_is_made_up_for(
    port: int, tmp_path: Path, attempt: Attempt
) -> None:
    """Nothing waits for it, nothing is lost, and the user hears of it once."""
    attempt()
    attempt("second")
    uri, said = f"http://{HOST}:{port}", list[str]()
    began = time.monotonic()
    with Forwarder(Tracker(uri, tmp_path, "study"), tmp_path / "runs", said.append, patience=1.0):
        assert time.monotonic() - began < 0.5
    assert said[-1] == "MLflow still lacks 2 runs; the same command will send them"
    with served(tmp_path, port):
        said.clear()
        tracker = Tracker(uri, tmp_path, "study")
        with Forwarder(tracker, tmp_path / "runs", said.append):
            pass
        assert said == []
        assert losses(tracker) == {name: list(range(10, 101, 10)) for name in ("dense", "second")}


def test_a_server_that_is_down_for_a_while_gets_everything(
    port: int, tmp_path: Path, attempt: Attempt
) -> None:
    """It is there, goes away while the run goes on, and comes back."""
    uri, said = f"http://{HOST}:{port}", list[str]()
    tracker = Tracker(uri, tmp_path, "study")
    attempt(steps=range(10, 51, 10), end=None)
    with Forwarder(tracker, tmp_path / "runs", said.append, interval=0.2):
        with served(tmp_path, port):
            _until(lambda: said[-1:] == ["MLflow is back, and has everything so far"])
        said.clear()
        attempt(steps=range(60, 101, 10), resumed_from=50)
        _until(lambda: any("takes nothing now" in line for line in said))
        with served(tmp_path, port):
            _until(lambda: said[-1:] == ["MLflow is back, and has everything so far"])
            assert losses(tracker) == {"dense": list(range(10, 101, 10))}
    assert len(said) == 2


def test_a_server_that_never_answers_is_given_up(
    port: int, tmp_path: Path, attempt: Attempt
) -> None:
    attempt()
    said: list[str] = []
    with socket.create_server((HOST, port)):
        began = time.monotonic()
        tracker = Tracker(f"http://{HOST}:{port}", tmp_path, "study")
        with Forwarder(tracker, tmp_path / "runs", said.append, interval=0.1, patience=1.0):
            time.sleep(0.5)
        assert time.monotonic() - began < 5
    assert said[-1] == "MLflow still lacks 1 runs; the same command will send them"


def _until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.3)
