"""MLflow's pages over a study's store: on loopback, one worker, no background jobs.

Started plainly, MLflow 3 takes 2.3 GB for workers that a reader of one study does not need; as
here, 0.4 GB.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

from pipeline.chart_view import QUERY
from pipeline.errors import StudyError
from pipeline.sent import SentStudy
from pipeline.store import ENVIRONMENT, default_uri, is_server, scrubbed

HOST = "127.0.0.1"
PORT = 5000
START_SECONDS = 120.0


def serve_ui(
    study_folder: Path, port: int = PORT, uri: str | None = None, say: Callable[[str], None] = print
) -> int:
    """Serve until interrupted, and return the server's exit code.

    Raises:
        StudyError: nothing of the study was sent to MLflow yet.
    """
    sent = SentStudy.read(study_folder)
    if not sent.store:
        raise StudyError(f"{study_folder}: nothing in MLflow yet; `isoflop run` sends it")
    uri = uri or default_uri(study_folder)
    if is_server(uri):
        say(f"MLflow: {link(scrubbed(uri), sent)}")
        return 0
    free = free_port(port)
    if free != port:
        say(f"Port {port} is taken; {free} is free")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the server with this process
    server = subprocess.Popen(
        ui_command(study_folder, free),
        env=os.environ | ui_environment(uri),
        cwd=study_folder,
        stdout=subprocess.DEVNULL,
    )
    try:
        if _is_up(server, free):
            say(f"MLflow: {link(f'http://{HOST}:{free}', sent)}   (Ctrl-C ends it)")
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


def ui_command(study_folder: Path, port: int = PORT) -> list[str]:
    """The server's command; `ui_environment` has the store, whose URI may hold a password."""
    hosts = ",".join(f"{host}:{port}" for host in (HOST, "localhost"))
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", HOST, "--port", str(port), "--workers", "1", "--allowed-hosts", hosts),
        *("--artifacts-destination", str(study_folder.absolute() / "artifacts")),
        *("--uvicorn-opts", "--log-level warning"),
    ]


def ui_environment(uri: str) -> dict[str, str]:
    return {
        **ENVIRONMENT,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
    }


def link(server: str, sent: SentStudy) -> str:
    """The address of the study's charts at ``server``."""
    return f"{server.rstrip('/')}/#/experiments/{sent.experiment_id}/runs?{QUERY}"


def charts(study_folder: Path, uri: str | None) -> str | None:
    """Where the study's charts are, once `serve_ui` serves them; None if nothing was sent yet."""
    sent = SentStudy.read(study_folder)
    server = scrubbed(uri) if uri and is_server(uri) else f"http://{HOST}:{PORT}"
    return link(server, sent) if sent.store else None


def free_port(port: int) -> int:
    """``port`` if nobody listens there, else one that the system picks."""
    for candidate in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no free port on {HOST}")


def _is_up(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server answers; False if it ended instead."""
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(f"http://{HOST}:{port}/health", timeout=5):
                return True
        except OSError:
            time.sleep(0.2)
    return False
