"""A study as it runs: what its slots do, how long it will take, and what its law says so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launch.config import RunConfig
from launch.journal import ENDED, RunRecord, read_run
from pipeline import show
from pipeline.config import Study
from pipeline.plan import Plan
from pipeline.records import record
from pipeline.runs import run_flops, run_folder
from pipeline.sparkline import sparkline
from pipeline.status import read_sweep
from pipeline.tables import new_table, short

REFRESH_SECONDS = 2.0
PLAIN_SECONDS = 15.0
SILENT_SECONDS = 120.0
RESAMPLES = 200
TROUBLES_SHOWN = 6
NARROW = 100
"""Columns of a terminal below which the page leaves out what matters least."""


def watch(study: Study, console: Console) -> None:
    """Show the study until all its runs have ended; on no terminal, a line at intervals."""
    watched = Watched(study, Plan.read(study.folder / "plan.json"))
    if not console.is_terminal:
        _watch_plainly(watched, console)
        return
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            watched.refresh()
            live.update(page(watched, console.width), refresh=True)
            if watched.is_over:
                return
            time.sleep(REFRESH_SECONDS)


def _watch_plainly(watched: Watched, console: Console) -> None:
    told = ""
    while True:
        watched.refresh()
        names = ", ".join(run.name for run, _ in watched.running)
        line = watched.headline + (f"; now {names}" if names else "")
        if line != told:
            console.print(line, markup=False, highlight=False)
            told = line
        if watched.is_over:
            return
        time.sleep(PLAIN_SECONDS)


@dataclass
class Law:
    """What one architecture's finished runs say: text for the page, and the widths of a so far."""

    runs: int = 0
    exponent: str = ""
    size: str = ""
    widths: list[float] = field(default_factory=list)


class Watched:
    """The runs of a plan as their journals tell; a run that has ended well is read no more."""

    def __init__(self, study: Study, plan: Plan) -> None:
        self.study = study
        self.plan = plan
        self.records: dict[str, RunRecord] = {}
        self.laws = {name: Law() for name in study.variants}
        self.sweep: dict[str, Any] | None = None

    def refresh(self) -> None:
        self.sweep = read_sweep(self.study)
        for run in self.plan.runs:
            known = self.records.get(run.fingerprint())
            if known is None or known.status not in ("finished", "diverged"):
                self.records[run.fingerprint()] = read_run(run_folder(self.study, run))
        for name, law in self.laws.items():
            self._fit(name, law)

    @property
    def is_over(self) -> bool:
        return all(self.of(run).status in ENDED for run in self.plan.runs)

    @property
    def running(self) -> list[tuple[RunConfig, RunRecord]]:
        return self._with("running")

    @property
    def finished(self) -> list[tuple[RunConfig, RunRecord]]:
        return self._with("finished")

    @property
    def troubled(self) -> list[tuple[RunConfig, RunRecord]]:
        return self._with("diverged", "failed")

    @property
    def share(self) -> float:
        """Share of the plan's FLOPs that are spent."""
        return min(sum(self._spent(run) for run in self.plan.runs) / self.plan.flops, 1.0)

    @property
    def seconds_left(self) -> float | None:
        """The driver's own word, or at the pace of what has finished, in the slots that run now."""
        if self.sweep and self.sweep["expected_end"]:
            return float(max(self.sweep["expected_end"] - time.time(), 0.0))
        seconds = sum(r.end.train_seconds or 0.0 for _, r in self.finished if r.end)
        flops = sum(run_flops(run) for run, _ in self.finished)
        if not (seconds and self.running):
            return None
        return self.plan.flops * (1 - self.share) / (flops / seconds * len(self.running))

    @property
    def headline(self) -> str:
        left = self.seconds_left
        over = sum(self.of(run).status in ENDED for run in self.plan.runs)
        parts = [f"{over} of {len(self.plan.runs)} runs ended", f"{self.share:.0%} of the FLOPs"]
        if left:
            parts.append(f"about {show.duration(left)} left")
        if self.sweep and self.sweep["paused"]:
            parts.append("paused")
        elif not self.running and not self.is_over:
            parts.append("nothing runs now")
        return ", ".join(parts)

    def of(self, run: RunConfig) -> RunRecord:
        return self.records[run.fingerprint()]

    def _with(self, *statuses: str) -> list[tuple[RunConfig, RunRecord]]:
        runs = ((run, self.of(run)) for run in self.plan.runs)
        return [(run, found) for run, found in runs if found.status in statuses]

    def _spent(self, run: RunConfig) -> float:
        found = self.of(run)
        if found.status in ("finished", "diverged"):
            return run_flops(run)
        return found.points[-1].flops if found.points else 0.0

    def _fit(self, name: str, law: Law) -> None:
        """Fit again when another run of this architecture has finished."""
        runs = [
            each
            for each in self.finished
            if each[0].labels["architecture"] == name and each[0].labels.get("role", "run") == "run"
        ]
        if len(runs) == law.runs:
            return
        from analysis import AnalysisError, fit

        law.runs = len(runs)
        try:
            found = fit(
                pd.DataFrame([record(self.study, run) for run, _ in runs]), resamples=RESAMPLES
            )
            best = found.allocate(10 * self.plan.largest)
        except AnalysisError:
            return
        a = found.derived["a"]
        law.exponent = f"{a.value:.2f} ({a.low:.2f} to {a.high:.2f})"
        ends = (short(end) for end in (best.params.low, best.params.high))
        law.size = f"{short(best.params.value)} ({' to '.join(ends)})"
        law.widths.append(a.high - a.low)


def page(watched: Watched, width: int = NARROW) -> RenderableType:
    """The study as one screen."""
    is_narrow = width < NARROW
    slots = [_slots(watched, is_narrow)] if watched.running else []
    return Group(_head(watched, is_narrow), *slots, _laws(watched), *_troubles(watched))


def _head(watched: Watched, is_narrow: bool) -> RenderableType:
    line = Table.grid(padding=(0, 2))
    bar = _bar(watched.share, width=10 if is_narrow else 28)
    line.add_row(Text(watched.study.name, style="bold"), bar, watched.headline)
    return line


def _bar(share: float, width: int) -> ProgressBar:
    return ProgressBar(1.0, share, width, complete_style="cyan", finished_style="green")


def _slots(watched: Watched, is_narrow: bool) -> Table:
    columns = ["running", "step", "", "loss", "curve", "tokens/s", "MFU"]
    table = new_table(columns[:5] if is_narrow else columns)
    table.columns[columns.index("curve")].justify = "left"
    table.columns[0].no_wrap = True
    table.columns[0].min_width = max(len(run.name) for run, _ in watched.running)
    for run, found in watched.running:
        points = found.points
        last = points[-1] if points else None
        step = last.step if last else 0
        cells: list[RenderableType] = [
            run.name,
            f"{step:,} / {run.train.steps:,}",
            _bar(step / run.train.steps, width=8 if is_narrow else 12),
            show.number(last and last.loss, ".3f"),
            Text(sparkline([point.loss for point in points]), style="cyan"),
            show.number(last and last.tokens_per_second, ",.0f"),
            show.number(last and last.mfu, ".0%"),
        ]
        table.add_row(*cells[: len(table.columns)])
        if last and (silent := time.time() - last.time) > SILENT_SECONDS:
            table.add_row(Text(f"  silent for {show.duration(silent)}", style="yellow"))
    return table


def _laws(watched: Watched) -> Table:
    columns = ["law so far", "runs", "N* ~ C^a, 95%", "N* at 10x the largest", "width of a"]
    table = new_table(columns)
    table.columns[-1].justify = "left"
    for name, law in watched.laws.items():
        told = law.exponent or Text("too few runs", style="dim")
        table.add_row(name, str(law.runs), told, law.size, _narrowing(law.widths))
    return table


def _narrowing(widths: list[float]) -> Text:
    """The width of the exponent's interval, and how it became so."""
    if not widths:
        return Text()
    curve = sparkline(widths, 12) if len(widths) > 1 else ""
    return Text.assemble(f"{widths[-1]:.2f} ", (curve, "green"))


def _troubles(watched: Watched) -> Iterator[Text]:
    for run, found in watched.troubled[-TROUBLES_SHOWN:]:
        assert found.end is not None
        why = f": {found.end.reason}" if found.end.reason else ""
        yield Text(f"{found.status} {run.name} at step {found.end.step:,}{why}", style="red")
