"""What is known of a study as it runs: its plan, its journals, who runs it, its laws so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from launch.config import RunConfig
from launch.journal import DONE, RunRecord, read_run
from pipeline.config import Study
from pipeline.fits import surface_runs
from pipeline.lease import Leader, Lookout
from pipeline.plan import PLAN, Plan
from pipeline.records import record
from pipeline.runs import own_flops, run_flops, run_folder
from pipeline.status import nobody_runs, read_sweep
from pipeline.tables import duration, short

RESAMPLES = 200
BEYOND = 10.0
"""How many times the largest run's FLOPs the laws so far are asked at."""


@dataclass
class Seen:
    """A run of the plan, the training FLOPs that it spends itself, its journal as last read."""

    run: RunConfig
    folder: Path
    flops: float
    found: RunRecord

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train of it."""
        return self.found.status in DONE

    @property
    def spent(self) -> float:
        """Training FLOPs that it has spent itself so far: all, once it is over."""
        if self.is_over:
            return self.flops
        of_trunk = run_flops(self.run) - self.flops
        return max(self.found.points[-1].flops - of_trunk, 0.0) if self.found.points else 0.0


@dataclass
class Law:
    """What one architecture's finished runs say: text for the page, and the widths of a so far."""

    rows: tuple[str, ...] = ()
    exponent: str = ""
    size: str = ""
    widths: list[float] = field(default_factory=list)

    def fit(self, rows: pd.DataFrame, flops: float) -> None:
        """Fit again if these are others than before; ask at ``flops``."""
        names = tuple(rows["fingerprint"])
        if names == self.rows:
            return
        from analysis import AnalysisError, fit

        self.rows = names
        try:
            found = fit(rows, resamples=RESAMPLES)
            best = found.allocate(flops)
        except AnalysisError:
            return
        a = found.derived["a"]
        self.exponent = f"{a.value:.2f} ({a.low:.2f} to {a.high:.2f})"
        ends = (short(end) for end in (best.params.low, best.params.high))
        self.size = f"{short(best.params.value)} ({' to '.join(ends)})"
        self.widths.append(a.high - a.low)


class Watched:
    """A study that is looked at again and again; of its journals, those of runs not yet over.

    Its plan is read anew when another is written: an adaptive study has one for each round.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.runs: list[Seen] = []
        self.laws = {name: Law() for name in study.variants}
        self.leader: Leader | None = None
        self.sweep: dict[str, Any] | None = None
        self._lookout = Lookout(study.folder)
        self._path = study.folder / PLAN
        self._written = self._fitted = 0
        self._largest = 0.0

    def refresh(self) -> None:
        """Look again: first at who runs it, so that nothing is missed of one who has left.

        Raises:
            StudyError: there is no plan, and nobody to make one.
        """
        self.leader = self._lookout.leader()
        self.sweep = read_sweep(self.study) if self.leader else None
        self._read_plan()
        for each in self.runs:
            if not each.is_over:
                each.found = read_run(each.folder)
        self._fit()

    @property
    def running(self) -> list[Seen]:
        """Those that train now."""
        return self._with("running") if self.leader else []

    @property
    def finished(self) -> list[Seen]:
        """Those that laws rest on."""
        return self._with("finished")

    @property
    def troubled(self) -> list[Seen]:
        """Those that ended otherwise."""
        return self._with("diverged", "failed")

    @property
    def share(self) -> float:
        """Share of the plan's FLOPs that are spent."""
        return min(sum(each.spent for each in self.runs) / self._flops, 1.0) if self.runs else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The driver's own word, or at the pace of what has finished, in the slots that run now."""
        if self.sweep and self.sweep["expected_end"]:
            return float(max(self.sweep["expected_end"] - time.time(), 0.0))
        ends = [each.found.end for each in self.finished]
        seconds = sum(end.train_seconds or 0.0 for end in ends if end)
        flops = sum(each.flops for each in self.finished)
        if not (seconds and self.running):
            return None
        return self._flops * (1 - self.share) / (flops / seconds * len(self.running))

    @property
    def headline(self) -> str:
        """How far it is, in one line."""
        if not self.runs:
            return f"no plan yet: {self.leader} prepares its tokens"
        left, over = self.seconds_left, sum(each.is_over for each in self.runs)
        parts = [f"{over} of {len(self.runs)} runs ended", f"{self.share:.0%} of the FLOPs"]
        if left:
            parts.append(f"about {duration(left)} left")
        if self.sweep and self.sweep["paused"]:
            parts.append("paused")
        elif over < len(self.runs) and not self.running:
            parts.append("nothing runs now" if self.leader else nobody_runs(self.study))
        return ", ".join(parts)

    @property
    def _flops(self) -> float:
        return sum(each.flops for each in self.runs)

    def _with(self, *statuses: str) -> list[Seen]:
        return [each for each in self.runs if each.found.status in statuses]

    def _read_plan(self) -> None:
        written = self._path.stat().st_mtime_ns if self._path.exists() else 0
        if written == self._written and (written or self.leader):
            return
        plan, known = Plan.read(self._path), {each.folder: each.found for each in self.runs}
        folders = [(run, run_folder(self.study, run)) for run in plan.runs]
        self.runs = [
            Seen(run, folder, own_flops(run), known.get(folder, RunRecord(folder)))
            for run, folder in folders
        ]
        self._written, self._largest = written, plan.largest

    def _fit(self) -> None:
        """Fit the laws again when another run has finished."""
        finished = self.finished
        if len(finished) == self._fitted:
            return
        self._fitted = len(finished)
        frame = pd.DataFrame([record(each.run, each.folder) for each in finished])
        for name, rows in surface_runs(self.study, frame).groupby("architecture"):
            self.laws[str(name)].fit(rows, BEYOND * self._largest)
