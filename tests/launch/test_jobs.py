"""The client of a cluster's dashboard, over a server that answers as one does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launch.jobs import Jobs, UnreachableError

LATER, EARLIER = (
    {
        "type": "SUBMISSION",
        "submission_id": name,
        "status": status,
        "entrypoint": "",
        "message": None,
        "start_time": began,
        "metadata": {"study": "s"},
    }
    for name, status, began in (("b", "RUNNING", 2000), ("a", "SUCCEEDED", 1000))
)


class Dashboard(BaseHTTPRequestHandler):
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        token = self.headers.get("Authorization")
        self.asked.append((self.path, token))
        answers = {"/api/version": {"ray_version": "2.60.0"}, "/api/jobs/": [LATER, EARLIER]}
        text = json.dumps(answers.get(self.path, {})).encode()
        self.send_response(200 if token == "Bearer sesame" else 401)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    Dashboard.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_jobs_are_listed_by_age_and_the_token_goes_in_a_header(url: str):
    found = Jobs(url, "sesame").all()
    assert [(job.id, job.status, job.began) for job in found] == [
        ("a", "SUCCEEDED", 1.0),
        ("b", "RUNNING", 2.0),
    ]
    assert {token for _, token in Dashboard.asked} == {"Bearer sesame"}
    assert not any("sesame" in path for path, _ in Dashboard.asked)


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_the_environment_leads_nobody_elsewhere(
    url: str, name: str, monkeypatch: pytest.MonkeyPatch
):
    """Ray would ask the address of the environment, which nobody has checked, and show it the token."""
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert len(Jobs(url, "sesame").all()) == 2


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_wrong_token_is_told_without_it(url: str, token: str | None):
    with pytest.raises(UnreachableError, match="does not take this token") as refused:
        Jobs(url, token)
    assert "wrong" not in str(refused.value)


def test_a_dashboard_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:9 does not answer"):
        Jobs("http://127.0.0.1:9")


def test_a_job_brings_code_and_installs_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    jobs, sent = Jobs(url, "sesame"), {}
    monkeypatch.setattr(jobs._client, "submit_job", lambda **given: sent.update(given))
    assert jobs.start("a", "true", tmp_path, {"study": "s"}, {"TMPDIR": "/scratch"})
    assert set(sent["runtime_env"]) == {"working_dir", "env_vars"}
    assert set(sent["runtime_env"]["env_vars"]) == {"TMPDIR", "RAY_JOB_STOP_WAIT_TIME_S"}
    assert "sesame" not in str(sent)
