"""What the scheduler deals with: runs as jobs, and all that it needs to know of gangs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launch.config import RunConfig
from launch.journal import DONE, Status
from launch.tail import read_tail

PAUSED = "paused"
"""A file of this name in a study's folder holds its runs; ``isoflop pause`` writes it."""
SWEEP = "sweep.json"
"""What the driver tells of its sweep (``Sweep.record``)."""


class Worker(Protocol):
    """A gang of ranks that trains one run after another."""

    @property
    def is_placed(self) -> bool:
        """Whether the cluster has given it its devices."""

    def submit(self, config: RunConfig, folder: Path) -> None:
        """Begin a run, or go on with it; returns at once."""

    def stop(self) -> None:
        """Ask the current run to save its state and end as ``preempted``."""

    def close(self) -> None:
        """End the worker and free its place, whatever it is doing."""


class Outcome(Protocol):
    """How a worker's run ended."""

    @property
    def status(self) -> Status:
        """finished, diverged, failed, preempted or cancelled."""

    @property
    def reason(self) -> str:
        """Why, in one line, where it did not finish."""

    @property
    def step(self) -> int:
        """How far it came."""

    @property
    def is_worker_sound(self) -> bool:
        """Whether the worker may train the next run."""


@dataclass(eq=False)
class Job:
    """A run, where it lives, the devices and seconds it should take.

    ``failures`` are those in a row that came no further than ``furthest``, the step of the first.
    """

    run: RunConfig
    folder: Path
    expected: float
    width: float = 1.0
    priority: int = 0
    failures: int = 0
    furthest: int = 0
    began: float = 0.0

    @property
    def start(self) -> Path | None:
        """The checkpoint of its trunk that it starts from; there once it was committed."""
        trunk = self.run.train.trunk
        return trunk.run / "checkpoints" / f"step-{trunk.step}" if trunk else None

    @property
    def is_ready(self) -> bool:
        """Whether what it starts from is there, or it has a state of its own already."""
        return self.start is None or self.start.is_dir() or (self.folder / "checkpoints").is_dir()


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """Those whose journals do not say that they are over."""
    return [job for job in jobs if read_tail(job.folder).status not in DONE]
