"""A run's journal: append-only JSON lines, the one truth about what a run did.

The attempt number is the fencing epoch. A writer that finds lines which it did not write knows
that a later attempt has taken over, and stops (`FencedError`); readers drop whatever an earlier
attempt wrote after a later one began, or past the step that the later one resumed from. A driver
claims a run before its gang starts it, with the epoch of its lease of the study: that fences every
writer before, and every driver of an earlier epoch.
"""

import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

Status = Literal[
    "planned", "queued", "running", "finished", "diverged", "failed", "preempted", "cancelled"
]
DONE: tuple[Status, ...] = ("finished", "diverged")
"""Of a run that nothing is left to train of."""
FILE = "journal.jsonl"
CLAIM = b'{"kind":"claim"'


class FencedError(RuntimeError):
    """Another attempt writes this journal now, or a later driver has claimed the run."""


class Journal:
    """The writer. Opening it cuts off a torn last line; `begin` opens the next attempt.

    `epoch` is a driver's; opening raises `FencedError` where one of a later epoch has claimed.
    """

    def __init__(self, path: Path, epoch: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self.path = path
        with _locked(self._fd):
            data = path.read_bytes()
            self._end = data.rfind(b"\n") + 1
            if self._end < len(data):
                os.ftruncate(self._fd, self._end)
        last = _last_record(data)
        self.attempt: int = last["attempt"] if last else 0
        self._driver = {} if epoch is None else {"epoch": epoch}
        if epoch is not None and (claimed := _claimed(data)) > epoch:
            os.close(self._fd)
            raise FencedError(f"{path} is claimed by the driver of epoch {claimed}, not {epoch}")

    def claim(self) -> None:
        """Whoever wrote before this writes no more."""
        self.append({"kind": "claim"}, sync=True)

    def begin(self, **start: Any) -> None:
        self.attempt += 1
        self.append({"kind": "start", **start}, sync=True)

    def append(self, record: dict[str, Any], *, sync: bool = False) -> None:
        """Write one line at once; `sync` waits until the disk has it.

        Raises:
            FencedError: this writer's time is over.
            OSError: the disk is full; nothing of the line is left.
        """
        stamp = {"time": time.time(), "attempt": self.attempt, **self._driver}
        stamped = {"kind": record["kind"], **stamp, **record}
        line = json.dumps(_finite(stamped), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with self._unfenced():
            if os.write(self._fd, line) < len(line):
                os.ftruncate(self._fd, self._end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._end += len(line)
        if sync:
            self.sync()

    def sync(self) -> None:
        """Wait until the disk has every line. Raises `FencedError` if others have come since."""
        os.fsync(self._fd)
        with self._unfenced():
            pass

    @contextmanager
    def _unfenced(self) -> Iterator[None]:
        with _locked(self._fd):
            if os.fstat(self._fd).st_size != self._end:
                raise FencedError(f"{self.path} has lines of another attempt than {self.attempt}")
            yield

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _locked(fd: int) -> Iterator[None]:
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class Attempt:
    attempt: int
    time: float
    resumed_from: int | None = None
    world: int = 1
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    peak_flops: float | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """`loss` is the global-batch mean in nats per token of the step that ended at `step`; `memory`
    the most bytes that rank 0 has had in use (`launch.device.peak_memory`)."""

    step: int
    time: float
    tokens: int
    flops: float
    loss: float
    learning_rate: float
    grad_norm: float | None
    tokens_per_second: float | None
    mfu: float | None
    memory: int | None = None
    aux: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`parts` are the losses on the corpora of a mixture."""

    step: int
    time: float
    tokens: int
    flops: float
    loss: float
    bits_per_byte: float | None
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Health:
    """Gradient norms by layer; `flags` names layers where they vanish or explode."""

    step: int
    time: float
    grad_norm: dict[str, float]
    flags: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spike:
    """`deviations` of the losses before it, above their median (`launch.spikes`)."""

    step: int
    time: float
    loss: float
    deviations: float
    skipped: bool


@dataclass(frozen=True, slots=True)
class Straggler:
    """A rank that took `ratio` times the forward seconds of a typical one, up to this step."""

    step: int
    time: float
    rank: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Checkpointed:
    step: int
    time: float
    path: str
    bytes: int
    seconds: float
    blocked: float | None = None


@dataclass(frozen=True, slots=True)
class End:
    step: int
    time: float
    status: Status
    reason: str = ""
    train_seconds: float | None = None


LINES: dict[str, tuple[str, type[Any]]] = {
    "step": ("points", Point),
    "eval": ("evals", Evaluation),
    "health": ("health", Health),
    "spike": ("spikes", Spike),
    "straggler": ("stragglers", Straggler),
    "checkpoint": ("checkpoints", Checkpointed),
}
"""Kinds of lines that a `RunRecord` keeps by their step: where, and as what."""


@dataclass
class RunRecord:
    """A run as its journal tells it, the abandoned parts of earlier attempts left out."""

    folder: Path
    attempts: list[Attempt] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    evals: list[Evaluation] = field(default_factory=list)
    health: list[Health] = field(default_factory=list)
    spikes: list[Spike] = field(default_factory=list)
    stragglers: list[Straggler] = field(default_factory=list)
    checkpoints: list[Checkpointed] = field(default_factory=list)
    end: End | None = None

    @property
    def status(self) -> Status:
        """ "running" without an `end`: only the launcher knows whether its writer still lives."""
        if self.end:
            return self.end.status
        return "running" if self.attempts else "planned"

    def _take(self, record: dict[str, Any]) -> None:
        kind = record["kind"]
        if kind == "start":
            self._restart(_typed(Attempt, record))
        elif self.attempts and record["attempt"] < self.attempts[-1].attempt:
            return
        elif kind == "end":
            self.end = _typed(End, record)
        elif kind in LINES:
            name, line = LINES[kind]
            getattr(self, name).append(_typed(line, record))

    def _restart(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        for name, _ in LINES.values():
            lines = getattr(self, name)
            lines[:] = [line for line in lines if line.step <= (attempt.resumed_from or 0)]
        self.end = None


def read_run(folder: Path) -> RunRecord:
    run = RunRecord(folder)
    path = folder / FILE
    if path.exists():
        for record in _records(path.read_bytes()):
            run._take(record)
    return run


def _records(data: bytes) -> Iterator[dict[str, Any]]:
    """The whole lines of `data`; what follows the last newline is torn."""
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        yield json.loads(line)


def _last_record(data: bytes) -> dict[str, Any] | None:
    lines = data[: data.rfind(b"\n") + 1].splitlines()[-1:]
    return json.loads(lines[0]) if lines else None


def _claimed(data: bytes) -> int:
    """The epoch of the last claim; 0 without one."""
    line = data[max(data.rfind(CLAIM), 0) :].partition(b"\n")[0]
    return int(json.loads(line)["epoch"]) if line.startswith(CLAIM) else 0


T = TypeVar("T")


def _typed(kind: type[T], record: dict[str, Any]) -> T:
    return kind(**{f.name: record[f.name] for f in fields(kind) if f.name in record})  # type: ignore[arg-type]
