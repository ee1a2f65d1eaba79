"""Jobs of a running Ray cluster, by the REST interface of its dashboard."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

CHATTY = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk")
for _name in (*CHATTY, "_private.runtime_env.packaging"):
    logging.getLogger(f"ray.{_name}").setLevel(logging.WARNING)
TEARDOWN_SECONDS = "120"
"""Between a job's SIGTERM and its end: its runs save their state meanwhile."""


class UnreachableError(ValueError):
    """Nothing that takes jobs answers there, or not to this token."""


@dataclass(frozen=True)
class JobInfo:
    """A job as the cluster tells it; `status` is PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""

    id: str
    status: str
    message: str
    began: float | None
    metadata: dict[str, str]


class Jobs:
    """The jobs of the cluster whose dashboard is at `url`; `token` authenticates.

    Raises `UnreachableError` from every method.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        os.environ["RAY_API_SERVER_ADDRESS"] = url  # RAY_ADDRESS would be asked, and told the token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client: Any = self._ask(lambda: JobSubmissionClient(url, headers=headers))

    def start(
        self, job: str, command: str, folder: Path, metadata: dict[str, str], env: dict[str, str]
    ) -> bool:
        """Run `command` in a copy of `folder` on the cluster; False if the job was there already.

        The environment is the cluster's own: nothing is installed.
        """
        runtime = {
            "working_dir": str(folder),
            "env_vars": env | {"RAY_JOB_STOP_WAIT_TIME_S": TEARDOWN_SECONDS},
        }
        try:
            self._ask(
                lambda: self._client.submit_job(
                    entrypoint=command, submission_id=job, runtime_env=runtime, metadata=metadata
                )
            )
        except RuntimeError:
            if any(each.id == job for each in self.all()):
                return False
            raise
        return True

    def all(self) -> list[JobInfo]:
        """Every job that was submitted, the oldest first."""
        found = [_info(job) for job in self._ask(self._client.list_jobs) if job.submission_id]
        return sorted(found, key=lambda job: job.began or time.time())

    def stop(self, job: str) -> None:
        """Ask a job to save its state and end; returns at once."""
        self._ask(lambda: self._client.stop_job(job))

    def logs(self, job: str) -> str:
        """What the job has printed."""
        text: str = self._ask(lambda: self._client.get_job_logs(job))
        return text

    def follow(self, job: str) -> Iterator[str]:
        """What the job prints, as it does, until it ends."""
        loop = asyncio.new_event_loop()
        stream: AsyncIterator[str] = self._client.tail_job_logs(job)
        try:
            while True:
                try:
                    yield loop.run_until_complete(anext(stream))
                except StopAsyncIteration:
                    return
        finally:
            loop.close()

    def nodes(self) -> list[dict[str, Any]]:
        """A summary of each node: address, state, what it has."""
        reply = self._ask(lambda: self._client._do_request("GET", "/api/v0/nodes?detail=1"))
        found: list[dict[str, Any]] = reply.json()["data"]["result"]["result"]
        return found

    def _ask(self, call: Any) -> Any:
        try:
            return call()
        except AuthenticationError as error:
            raise UnreachableError(
                f"{self.url} does not take this token: {str(error).splitlines()[0]}"
            ) from None
        except (ConnectionError, requests.RequestException) as error:
            raise UnreachableError(f"{self.url} does not answer: {error}") from None


def _info(job: Any) -> JobInfo:
    began = job.start_time / 1000 if job.start_time else None
    return JobInfo(
        job.submission_id, str(job.status.value), job.message or "", began, job.metadata or {}
    )
