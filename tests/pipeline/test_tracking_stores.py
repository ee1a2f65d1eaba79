"""Other stores than the default: a real PostgreSQL, and a server that is down and comes back."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
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
    assert list((tmp_path / "store").rglob("table.csv"))


def test_a_server_that_was_down_is_made_up_for(tmp_path: Path, attempt: Attempt) -> None:
    """Nothing waits for it, nothing is lost, and the user hears of it once."""
    attempt()
    attempt("second")
    port = free_port(5050)
    uri, said = f"http://{HOST}:{port}", list[str]()
    began = time.monotonic()
    with Forwarder(Tracker(uri, tmp_path, "study"), tmp_path / "runs", said.append, patience=1.0):
        assert time.monotonic() - began < 0.5
    assert said[-1] == "MLflow still lacks 2 runs; the same command will send them"
    database = f"sqlite:///{tmp_path}/server.db"
    server = subprocess.Popen(
        ui_command(tmp_path, port),
        env=os.environ | ui_environment(database),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"{uri}/health")
        said.clear()
        tracker = Tracker(uri, tmp_path, "study")
        with Forwarder(tracker, tmp_path / "runs", said.append):
            pass
        assert said == []
        assert len(tracker.client.search_runs([tracker.experiment_id])) == 2
    finally:
        server.terminate()
        server.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.3)
