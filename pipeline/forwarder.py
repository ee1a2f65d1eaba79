"""The thread that feeds the tracking store from the journals while a study runs.

Training never waits for it. An outage is told once; what could not be sent stays owed and goes with
a later round, at the end, or with the next command that runs the study.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Self

from launch.config import RunConfig
from launch.journal import FILE
from pipeline.store import scrubbed
from pipeline.tracking import Tracker

FAILURES_OF_AN_OUTAGE = 2  # one may be the run's own
HASTE = 15.0
"""Seconds that one who was interrupted waits in all, whether runs go through or not."""


class Forwarder:
    """Sends what the run folders in ``runs`` owe, every ``interval`` seconds and once more on exit.

    A context manager; leaving it waits while runs go through, and gives up ``patience`` seconds
    after the last one that did; on an error it waits ``HASTE``. Nothing owed: no import.
    """

    def __init__(
        self,
        tracker: Tracker,
        runs: Path,
        say: Callable[[str], None],
        interval: float = 5.0,
        patience: float = 60.0,
    ) -> None:
        self._tracker = tracker
        self._runs = runs
        self._say = say
        self._interval = interval
        self._patience = patience
        self._is_down = False
        self._failures: list[Exception] = []
        self._settled: dict[Path, int] = {}
        self._moved = 0.0
        self._leaving, self._given_up = Event(), Event()
        self._thread = Thread(target=self._loop, name="forwarder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leaving.set()
        self._moved = time.monotonic()
        last = math.inf if kind is None else self._moved + HASTE
        while self._thread.is_alive():
            left = min(self._moved + self._patience, last) - time.monotonic()
            if left <= 0:
                break
            self._thread.join(left)
        self._given_up.set()
        if owing := len(self._owing()):
            self._say(f"MLflow still lacks {owing} runs; the same command will send them")

    @property
    def is_outage(self) -> bool:
        """Whether the last round ended early, or has not ended yet."""
        return self._thread.is_alive() or len(self._failures) == FAILURES_OF_AN_OUTAGE

    def _loop(self) -> None:
        while not self._leaving.wait(self._interval):
            self._round()
        self._round()

    def _round(self) -> None:
        failures: list[Exception] = []
        for run in self._owing():
            try:
                self._tracker.forward(run, RunConfig.read(run / "config.json"))
                self._moved = time.monotonic()
            except Exception as error:  # whatever MLflow or its store raises, the study goes on
                failures.append(error)
            if len(failures) == FAILURES_OF_AN_OUTAGE or self._given_up.is_set():
                break
        self._failures = failures
        self._tell(failures)

    def _owing(self) -> list[Path]:
        """Runs of which the store lacks something; a journal that has not grown is not read again,
        since thousands have ended and a few go on."""
        owing = []
        for run in sorted(self._runs.iterdir()) if self._runs.is_dir() else []:
            size = _size(run)
            if self._settled.get(run) == size:
                continue
            if self._tracker.has_run(run):
                self._settled[run] = size
            else:
                owing.append(run)
        return owing

    def _tell(self, failures: list[Exception]) -> None:
        """Once when it goes wrong, and once when it is well again."""
        if failures and not self._is_down:
            reason = scrubbed(str(failures[0])).partition("\n")[0]
            where = scrubbed(self._tracker.uri)
            self._say(f"MLflow at {where} takes nothing now ({reason}); the study goes on")
        elif self._is_down and not failures:
            self._say("MLflow is back, and has everything so far")
        self._is_down = bool(failures)


def _size(run: Path) -> int:
    """Bytes of its journal, none before it has one."""
    try:
        return (run / FILE).stat().st_size
    except FileNotFoundError:
        return 0
