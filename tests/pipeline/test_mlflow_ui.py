"""MLflow is served on loopback alone, to those who ask for loopback alone."""

import socket
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from pipeline.config import load_study
from pipeline.errors import ConfigError, StudyError
from pipeline.mlflow_ui import HOST, charts, free_port, serve_ui, ui_command, ui_environment
from pipeline.sent import SentStudy
from pipeline.store import checked_uri
from pipeline.tracking import Tracker


def test_a_taken_port_is_not_used() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port


def test_a_study_without_runs_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="nothing in MLflow yet"):
        serve_ui(tmp_path)


def test_the_link_is_to_the_charts_of_the_study(tmp_path: Path) -> None:
    assert charts(tmp_path, None) is None
    SentStudy("0123456789ab-7-1000").write(tmp_path)
    for uri, server in ((None, "http://127.0.0.1:5000"), ("https://me@lab/", "https://lab")):
        found = charts(tmp_path, uri)
        assert found
        assert found.startswith(f"{server}/#/experiments/7/runs?viewStateShareKey=isoflop&")


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("mlruns", "given 'mlruns', allowed: http"),
        ("file:./mlruns", "sqlite:////an/absolute/path"),
        ("sqlite:///mlflow.db", "sqlite:////an/absolute/path"),
        ("postgresql://me:secret@db/mlflow", "given a URI with a password; allowed"),
    ],
)
def test_a_store_that_cannot_be_is_refused_before_anything_starts(uri: str, why: str) -> None:
    with pytest.raises(ConfigError, match="mlflow: ") as refused:
        load_study("quickstart", [f"mlflow={uri}"])
    assert why in str(refused.value)
    assert "secret" not in str(refused.value)


def test_stores_that_mlflow_knows_are_taken() -> None:
    for uri in (
        "http://127.0.0.1:5000",
        "sqlite:////data/mlflow.db",
        "postgresql+psycopg://me@db/x",
    ):
        assert checked_uri(uri) == uri


def test_a_password_is_on_no_command_line(tmp_path: Path) -> None:
    uri = "postgresql://me:secret@db/mlflow"
    assert not any("secret" in word for word in ui_command(tmp_path))
    assert ui_environment(uri)["MLFLOW_BACKEND_STORE_URI"] == uri


@pytest.mark.slow
def test_it_serves_loopback_alone(tmp_path: Path) -> None:
    tracker = Tracker(None, tmp_path, "study")
    assert tracker.store
    code = f"""
from pathlib import Path
from pipeline.mlflow_ui import serve_ui
serve_ui(Path({str(tmp_path)!r}), {free_port(5000)}, say=lambda line: print(line, flush=True))
"""
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert server.stdout is not None
        base, _, route = server.stdout.readline().removeprefix("MLflow: ").partition("/#/")
        assert route.startswith(f"experiments/{tracker.experiment_id}/runs")
        url = f"{base}/api/2.0/mlflow/experiments/get-by-name?experiment_name=study"
        with urlopen(url) as reply:
            assert reply.status == 200
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(url, headers={"Host": "rebound.example"}))
    finally:
        server.terminate()
        assert server.wait(20) == 0
    with pytest.raises(OSError, match="refused"):
        urlopen(url)
