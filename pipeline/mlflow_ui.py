"""MLflow's pages over a study's store: on loopback, one worker, no background jobs.

Started plainly, MLflow 3 takes 2.3 GB for workers that a reader of one study does not need; as
here, 0.4 GB.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.tracking import ENVIRONMENT, Tracker, scrubbed

HOST = "127.0.0.1"
PORT = 5000


def ui_command(study_folder: Path, port: int = PORT) -> list[str]:
    """The command that `ui_environment` completes with the store, whose URI may hold a password."""
    hosts = ",".join(f"{host}:{port}" for host in (HOST, "localhost"))
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", HOST, "--port", str(port), "--workers", "1", "--allowed-hosts", hosts),
        *("--artifacts-destination", str(study_folder.absolute() / "artifacts")),
    ]


def ui_environment(uri: str) -> dict[str, str]:
    return {
        **ENVIRONMENT,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def serve_ui(tracker: Tracker, say: Callable[[str], None], port: int = PORT) -> int:
    """Serve until interrupted; the server's exit code. A store that is a server only has a link."""
    if tracker.uri.startswith(("http://", "https://")):
        say(f"This study is tracked at {link(scrubbed(tracker.uri), tracker)}")
        return 0
    free = free_port(port)
    if free != port:
        say(f"Port {port} is taken; using {free}")
    say(f"MLflow: {link(f'http://{HOST}:{free}', tracker)}   (Ctrl-C ends it)")
    command = ui_command(tracker.folder, free)
    server = subprocess.Popen(
        command, env=os.environ | ui_environment(tracker.uri), cwd=tracker.folder
    )
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return 0


def link(server: str, tracker: Tracker) -> str:
    """The address of the study's runs at ``server``."""
    return f"{server.rstrip('/')}/#/experiments/{tracker.experiment_id}/runs"


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
