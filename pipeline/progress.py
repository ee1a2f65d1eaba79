"""Progress of long work: a live bar on a terminal, plain lines at intervals everywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.tables import duration

PLAIN_SECONDS = 15.0


class Task:
    """One piece of work: ``update`` as often as you like, it is shown at a bearable rate."""

    def __init__(
        self, console: Console, name: str, total: float, bar: tuple[Progress, TaskID] | None
    ):
        self.console, self.name, self.total, self._bar = console, name, total, bar
        self._began = self._shown = time.monotonic()
        self.done, self.note = 0.0, ""

    def update(self, done: float, note: str = "", total: float | None = None) -> None:
        """``done`` of ``total`` (any unit), and a few words on the current state."""
        self.done, self.note = done, note or self.note
        self.total = total if total is not None else self.total
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=done, total=self.total, note=self.note)
        elif done < self.total and time.monotonic() - self._shown > PLAIN_SECONDS:
            self._shown = time.monotonic()
            share = f"{100 * done / self.total:3.0f}%" if self.total else "    "
            self.console.print(
                f"{self.name:<10} {share}  {self.note}", highlight=False, markup=False
            )

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self._began


@contextmanager
def task(console: Console, name: str, total: float = 1.0) -> Iterator[Task]:
    """Show the progress of the block; then one line says what was done and how long it took."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            work = Task(
                console, name, total, (progress, progress.add_task(name, total=total, note=""))
            )
            yield work
    else:
        work = Task(console, name, total, None)
        yield work
    console.print(f"{name:<10} {work.note} [dim]({duration(work.elapsed)})[/dim]", highlight=False)
