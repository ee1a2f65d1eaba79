"""A study as a job of Slurm: a batch script that makes its nodes a Ray cluster and runs it there.

A job lives in ``<shared>/<study>/jobs/<id>/``: its code, its scripts, its log, and how it ended.
One whose time was over, and that nobody cancelled, queues itself again when its runs are saved.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.atomic import write_text
from pipeline.cluster_fields import SIGNAL_SECONDS
from pipeline.cluster_file import SlurmCluster
from pipeline.errors import StudyError
from pipeline.package import Package
from pipeline.slurm_scripts import BATCH, CHECK, NODE
from pipeline.submit import Job, State, Submission

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SUSPENDED")
SAVED = "130"
STOPPED = (SAVED, "143")
POLL_SECONDS = 0.5


class Slurm:
    """A `Scheduler` by sbatch, squeue and scancel on a login node."""

    def __init__(self, cluster: SlurmCluster) -> None:
        self._cluster = cluster
        self._shared = Path(cluster.shared)

    def all(self) -> list[Job]:
        folders = sorted(
            self._shared.glob("*/jobs/isoflop-*"), key=lambda each: each.stat().st_mtime
        )
        records = [(folder, _record(folder)) for folder in folders]
        numbers = [str(record["slurm"]) for _, record in records if "slurm" in record]
        states = self._states(numbers)
        return [
            Job(submission, *_state(folder, states.get(str(record.get("slurm")))), record["began"])
            for folder, record in records
            if (submission := Submission.of(record.get("labels", {})))
        ]

    def start(self, package: Package, submission: Submission) -> bool:
        folder = self._folder(submission)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            return False
        package.write(folder / "code")
        (folder / "node.sh").write_text(self._node(folder))
        (folder / "job.sh").write_text(self._batch(package, submission))
        try:
            number = _call("sbatch", "--parsable", str(folder / "job.sh")).split(";")[0].strip()
        except StudyError:
            shutil.rmtree(folder)
            raise
        record = {"slurm": number, "began": time.time(), "labels": submission.labels()}
        write_text(folder / "job.json", json.dumps(record, indent=1) + "\n")
        return True

    def stop(self, submission: Submission) -> None:
        folder = self._folder(submission)
        number = str(_record(folder).get("slurm", ""))
        state = self._states([number]).get(number)
        if state in WAITING:
            _call("scancel", number)
            write_text(folder / "exit", f"{SAVED}\n")
        elif state:
            write_text(folder / "cancelled", "")
            _call("scancel", "--batch", "--signal=TERM", number)

    def logs(self, submission: Submission, follow: bool) -> Iterator[str]:
        log, place = self._folder(submission) / "log", 0
        while True:
            is_over = not follow or self._is_over(submission)
            if log.is_file():
                with log.open("rb") as file:
                    file.seek(place)
                    text = file.read()
                place += len(text)
                yield text.decode(errors="replace")
            if is_over:
                return
            time.sleep(POLL_SECONDS)

    def text(self, package: Package, submission: Submission) -> str:
        return self._batch(package, submission) + "\n" + self._node(self._folder(submission))

    def _folder(self, submission: Submission) -> Path:
        return self._shared / submission.study / "jobs" / submission.id

    def _is_over(self, submission: Submission) -> bool:
        folder = self._folder(submission)
        number = str(_record(folder).get("slurm", ""))
        return (folder / "exit").is_file() or number not in self._states([number])

    def _states(self, numbers: list[str]) -> dict[str, str]:
        """Slurm's word for each job that it still knows."""
        if not numbers:
            return {}
        told = _call("squeue", "--noheader", "--me", "--format=%i %T")
        pairs = (line.split() for line in told.splitlines())
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0] in numbers}

    def _node(self, folder: Path) -> str:
        cluster = self._cluster
        return NODE.format(
            setup="\n".join(cluster.setup),
            folder=shlex.quote(str(folder)),
            cpus=cluster.cpus_per_node,
            gpus=cluster.gpus_per_node,
            scratch=self._scratch,
            python=cluster.python,
        )

    def _batch(self, package: Package, submission: Submission) -> str:
        cluster = self._cluster
        return BATCH.format(
            name=f"isoflop-{submission.study}",
            nodes=cluster.nodes,
            cpus=cluster.cpus_per_node,
            gpus=f" --gpus-per-node={cluster.gpus_per_node}" if cluster.gpus_per_node else "",
            directives="".join(f"#SBATCH {option}\n" for option in self._options()),
            time=cluster.time,
            folder=shlex.quote(str(self._folder(submission))),
            signal_seconds=SIGNAL_SECONDS,
            scratch=self._scratch,
            saved=SAVED,
            check=CHECK,
            study=submission.study,
            id=submission.id,
            version=version("isoflop"),
            setup="\n".join(cluster.setup),
            python=cluster.python,
            command=package.command,
        )

    @property
    def _scratch(self) -> str:
        return shlex.quote(self._cluster.scratch or "/tmp")

    def _options(self) -> list[str]:
        cluster = self._cluster
        given = {"partition": cluster.partition, "account": cluster.account}
        gpus = {"gpus-per-node": cluster.gpus_per_node or None}
        told = [f"--{key}={value}" for key, value in (given | gpus).items() if value]
        return told + list(cluster.options)


def _record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / "job.json").read_text())
    except (OSError, ValueError):
        return {"began": None}
    return record


def _state(folder: Path, told: str | None) -> tuple[State, str]:
    """What became of a job: by what it wrote when it ended, otherwise by Slurm."""
    if (folder / "exit").is_file():
        code = (folder / "exit").read_text().strip()
        if code in STOPPED:
            return "stopped", ""
        return ("finished", "") if code == "0" else ("failed", f"exit code {code}: {_end(folder)}")
    if told is None:
        return "failed", "it ended without a word: a time limit or a lost node"
    return ("waiting" if told in WAITING else "running"), told.lower()


def _end(folder: Path) -> str:
    """The last line that a job printed."""
    try:
        lines = (folder / "log").read_text(errors="replace").splitlines()
    except OSError:
        return "it printed nothing"
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")


def _call(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise StudyError(f"{command[0]} is not here: this is no login node of Slurm") from None
    if done.returncode:
        raise StudyError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
