"""How a run stands and what it last measured, from the end of its journal alone."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.journal import FILE, Status

CHUNK = 2048
LARGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Tail:
    """The last value of everything; ``loss`` and ``bits_per_byte`` are of held-out tokens.

    A run that a driver has claimed and that has not begun is "queued".
    """

    status: Status = "planned"
    attempts: int = 0
    step: int = 0
    loss: float | None = None
    bits_per_byte: float | None = None
    train_loss: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    train_seconds: float | None = None
    updated: float | None = None
    reason: str = ""

    def columns(self) -> dict[str, Any]:
        """The right part of a run's row in the table; held-out losses only where it finished."""
        is_finished = self.status == "finished"
        return {
            "status": self.status,
            "attempts": self.attempts,
            "reason": self.reason,
            "steps_done": self.step,
            "loss": self.loss if is_finished else None,
            "bits_per_byte": self.bits_per_byte if is_finished else None,
            "train_loss": self.train_loss,
            "tokens_per_second": self.tokens_per_second,
            "mfu": self.mfu,
            "train_seconds": self.train_seconds,
        }


def read_tail(folder: Path) -> Tail:
    """Read as little as tells it: a few lines where the run has ended."""
    try:
        descriptor = os.open(f"{folder}/{FILE}", os.O_RDONLY)
    except FileNotFoundError:
        return Tail()
    try:
        size, length = os.fstat(descriptor).st_size, CHUNK
        while True:
            data = os.pread(descriptor, length, max(size - length, 0))
            found = _last(data, is_whole=length >= size)
            if length >= min(size, LARGEST) or {"step", "eval"} <= set(found):
                return _tail(found)
            length *= 4
    finally:
        os.close(descriptor)


def _last(data: bytes, is_whole: bool) -> dict[str, dict[str, Any]]:
    """The last whole record of each kind, of the last attempt alone; ``""``: the last of all.

    What an earlier attempt wrote late, after the last one began, does not count.
    """
    found: dict[str, dict[str, Any]] = {}
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    for line in reversed(lines if is_whole else lines[1:]):
        record = json.loads(line.decode())
        if found and record["attempt"] > found[""]["attempt"]:
            found = {}
        last = found.setdefault("", record)
        if record["attempt"] == last["attempt"]:
            found.setdefault(record["kind"], record)
        if {"step", "eval"} <= set(found) or record["kind"] == "start":
            break
    return found


def _tail(found: dict[str, dict[str, Any]]) -> Tail:
    if not found:
        return Tail()
    last, step, score = found[""], found.get("step", {}), found.get("eval", {})
    end, start = last if last["kind"] == "end" else {}, found.get("start", {})
    steps = [record.get("step") or 0 for record in (step, score, last)]
    return Tail(
        status=end.get("status", "running" if last["attempt"] else "queued"),
        attempts=last["attempt"],
        step=max(*steps, start.get("resumed_from") or 0),
        loss=score.get("loss"),
        bits_per_byte=score.get("bits_per_byte"),
        train_loss=step.get("loss"),
        tokens_per_second=step.get("tokens_per_second"),
        mfu=step.get("mfu"),
        train_seconds=end.get("train_seconds"),
        updated=last["time"],
        reason=end.get("reason", ""),
    )
