"""MLflow is served on loopback alone, to those who ask for loopback alone."""

import socket
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from pipeline.errors import StudyError
from pipeline.mlflow_ui import HOST, free_port, serve_ui, ui_command, ui_environment
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
