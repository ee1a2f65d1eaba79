"""Jobs of a Ray cluster that is there: this machine's, or one whose dashboard can be reached."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cluster_file import Cluster, LocalCluster, RayCluster, load_cluster
from pipeline.cluster_token import read_token
from pipeline.errors import ConfigError, StudyError
from pipeline.package import Package
from pipeline.submit import Job, State, Submission

if TYPE_CHECKING:
    from launch import local_cluster
    from launch.jobs import JobInfo

STATES: dict[str, State] = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "finished",
    "FAILED": "failed",
    "STOPPED": "stopped",
}


class RayJobs:
    """A `Scheduler` by the dashboard's REST interface."""

    def __init__(self, cluster: LocalCluster | RayCluster) -> None:
        self._cluster = cluster
        url, token = door(cluster)
        from launch.jobs import Jobs

        self._jobs = Jobs(url, token)

    def all(self) -> list[Job]:
        return [job for info in self._jobs.all() if (job := _job(info))]

    def start(self, package: Package, submission: Submission) -> bool:
        with tempfile.TemporaryDirectory(prefix="isoflop-") as folder:
            package.write(Path(folder))
            return self._jobs.start(
                submission.id,
                package.command,
                Path(folder),
                submission.labels(),
                package.environment,
            )

    def stop(self, submission: Submission) -> None:
        self._jobs.stop(submission.id)

    def logs(self, submission: Submission, follow: bool) -> Iterator[str]:
        if follow:
            yield from self._jobs.follow(submission.id)
        else:
            yield self._jobs.logs(submission.id)

    def text(self, package: Package, submission: Submission) -> str:
        size = sum(map(len, package.files.values()))
        return (
            f"# Ray job {submission.id} at {self._jobs.url}\n"
            f"# working directory: {len(package.files)} files, {size / 1e6:.1f} MB, "
            f"fingerprint {package.fingerprint}\n{package.command}\n"
        )


def door(cluster: LocalCluster | RayCluster) -> tuple[str, str | None]:
    """The dashboard's URL and the token for it.

    Raises:
        ConfigError: the dashboard is not on this machine, and there is no token for it.
        StudyError: no local cluster is up.
    """
    if isinstance(cluster, LocalCluster):
        if (up := _up()) is None:
            raise StudyError("no local cluster is up; `isoflop cluster up` starts one")
        return up.dashboard, read_token(up.token_file, {})
    token = read_token(cluster.token_file)
    if token is None and not cluster.is_loopback:
        raise ConfigError(
            [
                f"dashboard: {cluster.dashboard} is not on this machine and there is no token for "
                "it; allowed: a token in RAY_AUTH_TOKEN or in `token_file` (mode 0600)"
            ]
        )
    return cluster.dashboard, token


def cluster_at(file: str) -> Cluster:
    """The cluster of a file; one of this machine with the nodes and the folder that are up now."""
    described = load_cluster(file)
    if not isinstance(described, LocalCluster) or (up := _up()) is None:
        return described
    found = {"nodes": len(up.nodes), "cpus_per_node": up.cpus, "gpus_per_node": up.gpus}
    return described.model_copy(update=found | {"shared": up.shared})


def _up() -> local_cluster.LocalCluster | None:
    from launch import local_cluster

    return local_cluster.find(state_folder())


def state_folder() -> Path:
    """Where the local cluster of this user is written down."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "isoflop" / "local"


def _job(info: JobInfo) -> Job | None:
    if (submission := Submission.of(info.metadata)) is None:
        return None
    note = info.message.strip().splitlines()
    told = note[-1] if note and info.status == "FAILED" else ""
    return Job(submission, STATES[info.status], told, info.began)
