"""A study sent to a cluster: the same submission is one job, and a study has one job at a time."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipeline.cluster_file import Cluster, KubeRayCluster, SlurmCluster
from pipeline.errors import BusyError, StudyError, nearest
from pipeline.package import Package

State = Literal["waiting", "running", "finished", "failed", "stopped"]
LIVE: tuple[State, ...] = ("waiting", "running")


@dataclass(frozen=True)
class Submission:
    """A job's identity: which study, of which code and settings, and its how-manieth attempt."""

    study: str
    fingerprint: str
    attempt: int

    @property
    def id(self) -> str:
        """A name that every scheduler takes."""
        return f"isoflop-{self.fingerprint[:12]}-{self.attempt}"

    def labels(self) -> dict[str, str]:
        """What a scheduler keeps with the job, all text."""
        return {
            "study": self.study,
            "fingerprint": self.fingerprint,
            "attempt": str(self.attempt),
        }

    @classmethod
    def of(cls, labels: dict[str, str]) -> Submission | None:
        """The submission that ``labels`` tell of; None where the job is another's."""
        try:
            return cls(labels["study"], labels["fingerprint"], int(labels["attempt"]))
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class Job:
    """A submission as its cluster tells it."""

    submission: Submission
    state: State
    note: str = ""
    began: float | None = None


@dataclass(frozen=True)
class There:
    """Where a cluster keeps a study.

    Raises:
        StudyError: nothing of it is to be seen from here.
    """

    study: str
    shared: str

    @property
    def folder(self) -> Path:
        """The study's folder, as every node calls it."""
        self.check()
        return Path(self.shared) / self.study

    def check(self) -> None:
        """Raise `StudyError` if nothing of the study is to be seen from here."""
        check_seen(self.shared)
        shared = Path(self.shared)
        if not (shared / self.study).is_dir():
            known = sorted(path.parent.name for path in shared.glob("*/plan.json"))
            raise StudyError(
                f"study '{self.study}': {shared / self.study} is not there, or its job has not "
                f"begun; studies seen there from here: {', '.join(known) or 'none'}"
                f"{nearest(self.study, known)}"
            )


def check_seen(shared: str) -> None:
    """Raise `StudyError` if a cluster's shared folder is not seen from here."""
    if not Path(shared).is_dir():
        raise StudyError(
            f"--cluster: its shared folder {shared} is not seen from {socket.gethostname()}; "
            "allowed: this command where it is, as on the head or a login node; from here "
            "`isoflop jobs`, `logs`, `cancel` and `resume` ask the cluster itself"
        )


class Scheduler(Protocol):
    """What takes jobs: Ray, Slurm or Kubernetes."""

    def all(self) -> list[Job]:
        """The jobs of this project, the oldest first."""

    def start(self, package: Package, submission: Submission) -> bool:
        """Make the job; False if somebody has made it already."""

    def stop(self, submission: Submission) -> None:
        """Ask the job to save its state and end; returns at once."""

    def logs(self, submission: Submission, follow: bool) -> Iterator[str]:
        """What the job has printed; with ``follow`` also what it will, until it ends."""

    def text(self, package: Package, submission: Submission) -> str:
        """What would be submitted, to read."""


def scheduler(cluster: Cluster) -> Scheduler:
    """Who takes jobs for ``cluster``."""
    if isinstance(cluster, SlurmCluster):
        from pipeline.slurm import Slurm

        return Slurm(cluster)
    if isinstance(cluster, KubeRayCluster):
        from pipeline.kuberay import KubeRay

        return KubeRay(cluster)
    from pipeline.ray_jobs import RayJobs

    return RayJobs(cluster)


def submit(package: Package, jobs: Scheduler) -> tuple[Job, bool]:
    """The job of ``package``, and whether it is new; one that ended is not begun again.

    Raises:
        BusyError: the study runs already, of other code or settings.
    """
    known = _of(jobs, package.study.name)
    _refuse_another(known, package)
    if same := [job for job in known if job.submission.fingerprint == package.fingerprint]:
        return same[-1], False
    return _start(package, jobs, 1)


def resume(package: Package, jobs: Scheduler) -> tuple[Job, bool]:
    """Go on with a study that was cancelled, failed or is to be done again, by the code of now.

    Raises:
        BusyError: the study runs already, of other code or settings.
        StudyError: the cluster knows no job of it.
    """
    name = package.study.name
    if not (known := _of(jobs, name)):
        raise StudyError(f"study '{name}': no job on this cluster; `isoflop submit` makes one")
    _refuse_another(known, package)
    same = [job for job in known if job.submission.fingerprint == package.fingerprint]
    if same and same[-1].state in LIVE:
        return same[-1], False
    return _start(package, jobs, 1 + max([0, *(job.submission.attempt for job in same)]))


def latest(jobs: Scheduler, study: str) -> Job:
    """The last job of a study.

    Raises:
        StudyError: there is none; the message names those that are there.
    """
    everything = jobs.all()
    if found := [job for job in everything if job.submission.study == study]:
        return found[-1]
    known = sorted({job.submission.study for job in everything})
    told = ", ".join(known) or "none"
    raise StudyError(
        f"study '{study}': no job on this cluster; there: {told}{nearest(study, known)}"
    )


def cancel(jobs: Scheduler, study: str, patience: float) -> Job:
    """Stop the study's job and wait until it has ended, its runs having saved their state."""
    job = latest(jobs, study)
    if job.state in LIVE:
        jobs.stop(job.submission)
        deadline = time.monotonic() + patience
        while job.state in LIVE and time.monotonic() < deadline:
            time.sleep(0.5)
            job = latest(jobs, study)
    return job


def _start(package: Package, jobs: Scheduler, attempt: int) -> tuple[Job, bool]:
    submission = Submission(package.study.name, package.fingerprint, attempt)
    return Job(submission, "waiting"), jobs.start(package, submission)


def _of(jobs: Scheduler, study: str) -> list[Job]:
    return [job for job in jobs.all() if job.submission.study == study]


def _refuse_another(known: list[Job], package: Package) -> None:
    for job in known:
        if job.state in LIVE and job.submission.fingerprint != package.fingerprint:
            raise BusyError(
                f"study '{package.study.name}' is {job.state} as {job.submission.id}, of other "
                "code or settings; `isoflop cancel` ends that job, and its runs are kept"
            )
