"""What a run's journal still owes MLflow, worked out without MLflow.

What is owed is a pure function of the journal and of what was sent, so that sending it twice, or in
other portions, leaves the same points in the store: they carry the journal's own time, of which
MLflow drops an exact repeat, and of a step that two attempts logged the first one counts.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from launch.journal import FILE, Status
from pipeline.sent import SentRun

CURVES = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu")
PROGRESS = ("tokens", "flops")
STAMP = ("kind", "time", "attempt", "epoch", "step")


class Sample(NamedTuple):
    """One value of a metric; ``time`` in milliseconds since 1970."""

    key: str
    value: float
    time: int
    step: int


class Ended(NamedTuple):
    """The step and the time (in milliseconds since 1970) at which an attempt ended."""

    step: int
    time: int


@dataclass
class Owed:
    """The samples and changes that the store lacks, and what is ``sent`` once it has them."""

    sent: SentRun
    samples: list[Sample] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    status: Status = "running"
    started: int | None = None
    ended: Ended | None = None

    def take(self, record: dict[str, Any]) -> None:
        """Add one line of the journal, unless it is of an attempt that a later one replaced."""
        if record["attempt"] < self.sent.attempt:
            return
        kind, time = record["kind"], round(record["time"] * 1000)
        if kind == "start":
            self._start(record, time)
        elif kind == "step" and record["step"] > self.sent.step:
            self._curve(record, time)
        elif kind == "system" and record["step"] > self.sent.step:  # stands before its step
            values = {key: value for key, value in record.items() if key not in STAMP}
            self._add({f"system/{key}": v for key, v in values.items()}, time, record["step"])
        elif kind == "eval" and record["step"] > self.sent.evaluated:
            self._evaluation(record, time)
        elif kind == "end":
            self._end(record, time)

    def _start(self, record: dict[str, Any], time: int) -> None:
        self.sent = replace(self.sent, attempt=record["attempt"])
        self.status, self.ended = "running", None
        self.started = self.started or time
        self.tags |= {"status": "running", "attempt": str(record["attempt"])}
        if record.get("device"):
            self.tags["device"] = str(record["device"])

    def _curve(self, record: dict[str, Any], time: int) -> None:
        step, flops = record["step"], record["flops"]
        self.sent = replace(self.sent, step=step)
        values = {key: record.get(key) for key in (*CURVES, *PROGRESS)}
        values["log10_flops"] = math.log10(flops) if flops else None
        values |= {f"aux/{key}": value for key, value in (record.get("aux") or {}).items()}
        self._add(values, time, step)

    def _evaluation(self, record: dict[str, Any], time: int) -> None:
        step = record["step"]
        values = {f"heldout_{key}": record.get(key) for key in ("loss", "bits_per_byte")}
        values |= {f"heldout_loss/{name}": loss for name, loss in record.get("parts", {}).items()}
        if step > self.sent.step:  # no training point tells how far this step is
            values |= {key: record.get(key) for key in PROGRESS}
        self.sent = replace(self.sent, evaluated=step)
        self._add(values, time, step)

    def _end(self, record: dict[str, Any], time: int) -> None:
        self.status, self.ended = record["status"], Ended(record["step"], time)
        self.tags |= {"status": str(record["status"]), "reason": str(record.get("reason") or "")}
        self._add({"train_seconds": record.get("train_seconds")}, time, record["step"])

    def _add(self, values: dict[str, float | None], time: int, step: int) -> None:
        """A value that was not finite is null in a journal, and no point in a chart."""
        self.samples += [
            Sample(key, float(value), time, step)
            for key, value in values.items()
            if value is not None
        ]


def is_settled(folder: Path, store: str) -> bool:
    """Whether ``store`` has every whole line of the journal in ``folder``."""
    sent = SentRun.read(folder)
    return not _whole_lines(folder, sent.offset if sent.store == store else 0)


def owed(folder: Path, sent: SentRun) -> Owed:
    """What the journal in ``folder`` holds beyond ``sent``; a torn last line waits for its end."""
    data = _whole_lines(folder, sent.offset)
    update = Owed(sent)
    for line in data.splitlines():
        update.take(json.loads(line))
    update.sent = replace(update.sent, offset=sent.offset + len(data))
    return update


def _whole_lines(folder: Path, offset: int) -> bytes:
    try:
        with (folder / FILE).open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]
