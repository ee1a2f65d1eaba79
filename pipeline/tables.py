"""Figures and tables as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.table import Table

NAMED = 6


def new_table(columns: Sequence[str], left: int = 1) -> Table:
    """A plain table; all but the first ``left`` columns hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < left else "right")
    return table


def titled(title: str, table: Table, *notes: str) -> Group:
    """A table under its title, with notes below."""
    return Group(f"[bold]{title}[/]", table, *(f"[dim]{note}[/]" for note in notes))


def short(count: float) -> str:
    """``61440`` as ``61.4k``: for names and tables."""
    for size, unit in ((1e12, "t"), (1e9, "b"), (1e6, "m"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def listed(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def gibibytes(count: float) -> str:
    """Bytes as KiB, MiB or GiB."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
