"""What a long preparation reports while it runs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from data.documents import Tally

Stage = Literal["wait", "deduplicate", "train tokenizer", "tokenize"]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` shards are read, with these bytes of text and tokens, in `seconds`."""

    stage: Stage
    done: int
    total: int
    bytes: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else 0.0


Report = Callable[[Progress], None]


class Meter:
    """Reports the progress of a stage as its shards are done."""

    def __init__(self, stage: Stage, total: int, report: Report, done: int = 0) -> None:
        self._stage, self._total, self._report = stage, total, report
        self._done, self._bytes, self._tokens = done, 0, 0
        self._started = time.monotonic()

    def add(self, tally: Tally) -> None:
        self._done += 1
        self._bytes += tally.bytes.total()
        self._tokens += tally.tokens.total()
        seconds = time.monotonic() - self._started
        self._report(
            Progress(self._stage, self._done, self._total, self._bytes, self._tokens, seconds)
        )


def waiting(report: Report) -> Callable[[], None]:
    """For `data.files.alone`: another process is making what this one needs."""
    return lambda: report(Progress("wait", 0, 1))
