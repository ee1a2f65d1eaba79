"""Ends a rank whose step takes too long, and says where it stood."""

import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Self

EXIT_CODE = 70
START_SECONDS = 300.0
"""Imports, kernels compiled and a checkpoint read and verified come before the first step."""
WAITING = ("torch/distributed/", "deepspeed/comm/", "launch/device.py")
"""A rank whose stack ends in one of these waits for another: it is not the one that hangs."""


class Watchdog:
    """A thread of the rank's own: Ray does not notice a process that has stopped working.

    After `timeout` seconds without a `beat` it writes `hang-<rank>.json` and every thread's stack,
    and ends the process, so that the gang's other ranks fail and the run starts again.
    """

    def __init__(self, folder: Path, rank: int, timeout: float) -> None:
        self._path, self._rank = folder / f"hang-{rank}.json", rank
        self._timeout, self._limit = timeout, max(timeout, START_SECONDS)
        self._step = 0
        self._last = time.monotonic()
        self._over = threading.Event()
        self._watched = threading.get_ident()

    def beat(self, step: int) -> None:
        """The rank is alive, at this step."""
        self._step, self._last, self._limit = step, time.monotonic(), self._timeout

    def __enter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._timeout / 10)):
            silent = time.monotonic() - self._last
            if silent > self._limit:
                self._end(silent)

    def _end(self, silent: float) -> None:
        frames = traceback.extract_stack(sys._current_frames()[self._watched])
        report = {
            "rank": self._rank,
            "step": self._step,
            "seconds": silent,
            "waits": any(place in frame.filename for frame in frames[-3:] for place in WAITING),
            "stack": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
        }
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(report))
        draft.replace(self._path)
        faulthandler.dump_traceback()
        os._exit(EXIT_CODE)


def blame(folder: Path, world: int) -> str | None:
    """Which rank hung, from the reports of those that noticed; None if none did."""
    reports = {
        report["rank"]: report
        for report in (json.loads(path.read_text()) for path in folder.glob("hang-*.json"))
    }
    if not reports:
        return None
    step = max(report["step"] for report in reports.values())
    busy = [rank for rank, report in sorted(reports.items()) if not report["waits"]]
    if busy:
        where = reports[busy[0]]["stack"][-1]
        return f"rank {busy[0]} hung after step {reports[busy[0]]['step']} at {where}"
    silent = sorted(set(range(world)) - set(reports))
    if silent:
        return f"rank {silent[0]} fell silent after step {step}, its peers waiting for it"
    return f"all ranks wait for each other after step {step}: a collective operation was skipped"
