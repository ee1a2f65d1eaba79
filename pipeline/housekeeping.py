"""Which studies lie in a folder, how large they are, and what of them may be thrown away."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from launch.journal import DONE
from launch.tail import read_tail
from pipeline.kept import spoken
from pipeline.lease import leader, leading
from pipeline.plan import PLAN, Plan
from pipeline.runs import folder_of
from pipeline.status import Placed, status_rows
from pipeline.tables import duration, gibibytes, new_table, titled

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Lying:
    """A study on disk: how many runs stand where, when a file of it last changed (seconds since
    1970), its bytes, and who runs it."""

    folder: Path
    counts: dict[str, int]
    changed: float
    bytes: int
    led_by: str | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "study": self.folder.name,
            "folder": str(self.folder),
            "runs": self.counts,
            "changed": self.changed,
            "bytes": self.bytes,
            "led_by": self.led_by,
        }


@dataclass(frozen=True)
class Spare:
    """Checkpoints of a run that is over; of a trunk that other runs are still to start from, those
    runs are named in ``needed_by``."""

    run: Path
    bytes: int
    needed_by: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        told = {"run": self.run.name, "folder": str(self.run / CHECKPOINTS), "bytes": self.bytes}
        return told | {"needed_by": list(self.needed_by)}


def studies_in(output: Path) -> list[Lying]:
    """The studies that have a plan, the last changed first."""
    found = [_lying(plan.parent) for plan in output.glob(f"*/{PLAN}")]
    return sorted(found, key=lambda study: -study.changed)


def study_table(output: Path, found: Sequence[Lying]) -> RenderableType:
    """A line for each."""
    if not found:
        return f"{output}: no study there; `isoflop run` makes one"
    table = new_table(["study", "runs", "last change", "on disk", "run by"], left=2)
    for study in found:
        counts = ", ".join(f"{count} {status}" for status, count in study.counts.items())
        ago = f"{duration(max(time.time() - study.changed, 0.0))} ago"
        table.add_row(
            study.folder.name, counts, ago, gibibytes(study.bytes), study.led_by or "nobody"
        )
    everything = sum(study.bytes for study in found)
    title = f"{len(found)} {'study' if len(found) == 1 else 'studies'} in {output}"
    return titled(title, table, f"{gibibytes(everything)} in all")


def spare_checkpoints(study: Placed) -> list[Spare]:
    """Those of runs that have finished or diverged, the largest first.

    Raises:
        StudyError: the study has no plan.
    """
    needed: dict[Path, list[str]] = {}
    for run in Plan.read(study.folder / PLAN).runs:
        trunk, own = run.train.trunk, folder_of(study.folder, run.name, run.fingerprint())
        if trunk and not _is_over(own):
            needed.setdefault(trunk.run.resolve(), []).append(run.name)
    found = [
        Spare(path.parent, _bytes(path), tuple(needed.get(path.parent.resolve(), ())))
        for path in study.folder.glob(f"runs/*/{CHECKPOINTS}")
        if _is_over(path.parent)
    ]
    return sorted(found, key=lambda spare: -spare.bytes)


def free_checkpoints(study: Placed) -> list[Spare]:
    """Throw away those that nothing needs, and return them; nobody else leads the study meanwhile.

    Raises:
        BusyError: somebody runs the study.
    """
    with leading(study.folder):
        freed = [spare for spare in spare_checkpoints(study) if not spare.needed_by]
        for spare in freed:
            shutil.rmtree(spare.run / CHECKPOINTS)
    return freed


def spare_table(study: Placed, found: Sequence[Spare], is_freed: bool) -> RenderableType:
    """What was thrown away, or may be; and what is kept for others."""
    name = study.folder.name
    if not found:
        return f"{name}: no checkpoints of runs that are over"
    table = new_table(["run", "checkpoints", "needed by"], left=1)
    for spare in found:
        table.add_row(spare.run.name, gibibytes(spare.bytes), ", ".join(spare.needed_by[:2]))
    free = sum(spare.bytes for spare in found if not spare.needed_by)
    if is_freed:
        return titled(f"{name}: {gibibytes(free)} freed", table)
    how = f"`isoflop clean {spoken(study.folder)} --checkpoints --yes` throws them away"
    why = "no run of the study needs them; `export` and `generate` of these runs would"
    return titled(f"{name}: {gibibytes(free)} of checkpoints may go", table, f"{how}: {why}")


def _lying(folder: Path) -> Lying:
    held = leader(folder)
    rows = status_rows(_Folder(folder))
    changed, total = _extent(folder)
    counts = dict(Counter(str(row["status"]) for row in rows))
    return Lying(folder, counts, changed, total, str(held) if held else None)


@dataclass(frozen=True)
class _Folder:
    """A study of which the folder alone is known."""

    folder: Path


def _is_over(run: Path) -> bool:
    return read_tail(run).status in DONE


def _bytes(folder: Path) -> int:
    return _extent(folder)[1]


def _extent(folder: Path) -> tuple[float, int]:
    """When a file in it last changed, and the bytes of all."""
    changed, total = 0.0, 0
    for path in _files(folder):
        try:
            found = path.stat(follow_symlinks=False)
        except FileNotFoundError:  # it runs, and an old checkpoint has just gone
            continue
        changed, total = max(changed, found.st_mtime), total + found.st_size
    return changed, total


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)
