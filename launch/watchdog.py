"""Ends a rank whose step takes too long, and says where it and its peers stood.

No clock is asked that can be set, and none that went on while a process stood still: silence is
counted in looks, and whoever is stopped, by a signal or with its whole machine, takes none.
"""

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Self

EXIT_CODE = 70
START_SECONDS = 300.0
"""A checkpoint is read and verified, and kernels are compiled, before the first step is over."""
WAITING = (
    "torch/distributed/",
    "torch/cuda/",
    "deepspeed/",
    "launch/device.py",
    "launch/engine.py",
    "launch/ranks.py",
    "models/channels/expert_parallel.py",
    "models/engines/ring.py",
    "models/engines/slices.py",
)
"""A rank that stands in one of these waits for another, or for a GPU that does: it is not the one
that hangs. The project's own are those that talk to other ranks or read numbers off a GPU."""
ROOT = str(Path(__file__).resolve().parent.parent)
PULSE = "pulse"
LOOKS = 2
"""So many in a row, half a step timeout apart, that find the pulse unchanged: it has stopped."""


class Watchdog:
    """A thread of the rank's own: Ray does not notice a process that has stopped working.

    After `timeout` seconds without a `beat` it writes `hang-<rank>.json`, and so do its peers, who
    look for it; when all have, or a little later, it ends the process, and the run starts again.
    That of rank 0 keeps a pulse going, by which the driver sees that there is a watchdog.
    """

    def __init__(self, folder: Path, rank: int, world: int, timeout: float) -> None:
        self._folder, self._rank, self._world = folder, rank, world
        self._timeout, self._limit = timeout, max(timeout, START_SECONDS)
        self._every = min(1.0, timeout / 10)
        self._step: int | None = None
        self._beats = 0
        self._over = threading.Event()
        self._watched = threading.get_ident()

    def beat(self, step: int) -> None:
        """The rank is alive and has done so many steps."""
        if self._step is not None and step > self._step:
            self._limit = self._timeout
        self._step, self._beats = step, self._beats + 1

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        looks, beats, silent = 0, 0, 0.0
        seldom = round(self._timeout / 10 / self._every)
        while not self._over.wait(self._every):
            silent = silent + self._every if beats == self._beats else 0.0
            looks, beats = looks + 1, self._beats
            if looks % seldom == 0 and self._rank == 0:
                self._write(PULSE, str(looks))
            if silent > self._limit or (looks % seldom == 0 and _reports(self._folder)):
                self._end(silent)

    def _end(self, silent: float) -> None:
        try:
            self._write(f"hang-{self._rank}.json", json.dumps(self._report(silent)))
            faulthandler.dump_traceback()
            deadline = time.monotonic() + self._timeout / 5
            while len(_reports(self._folder)) < self._world and time.monotonic() < deadline:
                time.sleep(self._every / 2)
        finally:
            os._exit(EXIT_CODE)

    def _report(self, silent: float) -> dict[str, Any]:
        """Autograd works in threads of its own on a GPU: any may be the one that waits."""
        frames = sys._current_frames()
        del frames[threading.get_ident()]
        stack = traceback.extract_stack(frames[self._watched])
        places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in stack]
        own = (place for place in reversed(places) if _is_own(place) and not _waits(place))
        return {
            "rank": self._rank,
            "step": self._step or 0,
            "seconds": silent,
            "waits": any(_waits(frame.f_code.co_filename) for frame in frames.values()),
            "place": next(own, places[-1]),
            "stack": places,
        }

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all; that a disk is full is the journal's to tell."""
        draft = self._folder / f"{name}.draft"
        with contextlib.suppress(OSError):
            draft.write_text(text)
            draft.replace(self._folder / name)


class Pulse:
    """A driver's eye on the watchdog of rank 0, which a stopped process has not, nor one that never
    lets go of the interpreter's lock. Until it first beats it may take long."""

    def __init__(self, folder: Path, timeout: float) -> None:
        self._path, self._every = folder / PULSE, timeout / 2
        self._left = 2 * LOOKS * max(1, round(START_SECONDS / timeout))
        self._seen, self._looked = "", time.monotonic()

    def has_stopped(self) -> bool:
        """Costs nothing until the next look is due."""
        if time.monotonic() - self._looked < self._every:
            return False
        self._looked = time.monotonic()
        with contextlib.suppress(OSError):
            seen = self._path.read_text()
            if seen != self._seen:
                self._seen, self._left = seen, LOOKS + 1
        self._left -= 1
        return self._left <= 0


def forget(folder: Path) -> None:
    """Remove what the watchdogs of an earlier attempt have left."""
    for path in (folder / PULSE, *folder.glob("hang-*.json")):
        path.unlink(missing_ok=True)


def blame(folder: Path, world: int) -> str | None:
    """Which ranks hung, from the reports of those that noticed; None if none did."""
    reports = {report["rank"]: report for report in map(_read, _reports(folder))}
    if not reports:
        return None
    step = max(report["step"] for report in reports.values())
    told = [
        f"rank {rank} hung after step {report['step']} at {report['place']}"
        for rank, report in sorted(reports.items())
        if not report["waits"]
    ]
    if silent := sorted(set(range(world)) - set(reports)):
        told.append(f"{_named(silent)} fell silent after step {step}, its peers waiting for it")
    return "; ".join(told) or _skipped(reports, step)


def _skipped(reports: dict[int, dict[str, Any]], step: int) -> str:
    """Where each waits tells who skipped what."""
    places: dict[str, list[int]] = {}
    for rank, report in sorted(reports.items()):
        places.setdefault(report["place"], []).append(rank)
    stand = "; ".join(f"{_named(ranks)} at {place}" for place, ranks in places.items())
    return (
        f"all ranks wait for each other after step {step}: a collective operation was skipped: "
        f"{stand}"
    )


def _named(ranks: list[int]) -> str:
    return f"rank{'s' if ranks[1:] else ''} {', '.join(map(str, ranks))}"


def _waits(place: str) -> bool:
    return any(waiting in place for waiting in WAITING)


def _is_own(place: str) -> bool:
    """Whether it is in the project rather than in a library."""
    return place.startswith(ROOT) and "site-packages" not in place.removeprefix(ROOT)


def _reports(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):  # a shared disk may fail for a moment
        return list(folder.glob("hang-*.json"))
    return []


def _read(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report.read_text())
    return found
