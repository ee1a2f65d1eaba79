"""The page of a study as it runs: what its slots do, how long it will take, what its laws say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline import show
from pipeline.config import Study
from pipeline.sparkline import sparkline
from pipeline.tables import duration, new_table
from pipeline.watched import BEYOND, Watched

REFRESH_SECONDS = 2.0
PLAIN_SECONDS = 15.0
SILENT_SECONDS = 120.0
TROUBLES_SHOWN = 6
NARROW = 100
"""Columns of a terminal below which the page leaves out what matters least."""


def watch(study: Study, console: Console) -> None:
    """Show the study for as long as somebody runs it; on no terminal, a line at intervals.

    Raises:
        StudyError: it has no plan, and nobody runs it.
    """
    watched = Watched(study)
    if not console.is_terminal:
        _follow(watched, Lines(watched, console), PLAIN_SECONDS)
        return
    with Live(console=console, auto_refresh=False, screen=False) as live:
        _follow(
            watched,
            lambda: live.update(page(watched, console.width), refresh=True),
            REFRESH_SECONDS,
        )


def _follow(watched: Watched, tell: Callable[[], None], seconds: float) -> None:
    while True:
        watched.refresh()
        tell()
        if watched.leader is None:
            return
        time.sleep(seconds)


class Lines:
    """One line whenever it says something new."""

    def __init__(self, watched: Watched, console: Console) -> None:
        self.watched, self.console, self._told = watched, console, ""

    def __call__(self) -> None:
        names = ", ".join(each.run.name for each in self.watched.running)
        line = self.watched.headline + (f"; now {names}" if names else "")
        if line != self._told:
            self.console.print(line, markup=False, highlight=False)
        self._told = line


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
    table.columns[0].min_width = max(len(each.run.name) for each in watched.running)
    for each in watched.running:
        points, steps = each.found.points, each.run.train.steps
        last = points[-1] if points else None
        step = last.step if last else 0
        cells: list[RenderableType] = [
            each.run.name,
            f"{step:,} / {steps:,}",
            _bar(step / steps, width=8 if is_narrow else 12),
            show.number(last and last.loss, ".3f"),
            Text(sparkline([point.loss for point in points]), style="cyan"),
            show.number(last and last.tokens_per_second, ",.0f"),
            show.number(last and last.mfu, ".0%"),
        ]
        table.add_row(*cells[: len(table.columns)])
        if last and (silent := time.time() - last.time) > SILENT_SECONDS:
            table.add_row(Text(f"  silent for {duration(silent)}", style="yellow"))
    return table


def _laws(watched: Watched) -> Table:
    columns = ["law so far", "runs", "N* ~ C^a, 95%", f"N* at {BEYOND:g}x the largest"]
    table = new_table([*columns, "width of a"])
    table.columns[-1].justify = "left"
    for name, law in watched.laws.items():
        told = law.exponent or Text("too few runs", style="dim")
        table.add_row(name, str(len(law.rows)), told, law.size, _narrowing(law.widths))
    return table


def _narrowing(widths: list[float]) -> Text:
    """The width of the exponent's interval, and how it became so."""
    if not widths:
        return Text()
    curve = sparkline(widths, 12) if len(widths) > 1 else ""
    return Text.assemble(f"{widths[-1]:.2f} ", (curve, "green"))


def _troubles(watched: Watched) -> Iterator[Text]:
    for each in watched.troubled[-TROUBLES_SHOWN:]:
        end = each.found.end
        assert end is not None
        why = f": {end.reason}" if end.reason else ""
        yield Text(f"{end.status} {each.run.name} at step {end.step:,}{why}", style="red")
