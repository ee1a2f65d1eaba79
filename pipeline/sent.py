"""What the tracking store has already: a small file beside each thing that was sent.

By these a rerun knows, without importing MLflow, that it owes nothing. Losing one costs a replay,
so they are not waited for until the disk has them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

FILE = "mlflow.json"


@dataclass(frozen=True)
class SentRun:
    """How much of a journal ``store`` has: bytes, their attempt, the last step of each curve."""

    store: str = ""
    run_id: str = ""
    offset: int = 0
    attempt: int = 0
    step: int = 0
    evaluated: int = 0

    @classmethod
    def read(cls, run: Path) -> Self:
        return cls(**_read(run))

    def write(self, run: Path) -> None:
        _write(run, self)


@dataclass(frozen=True)
class SentStudy:
    """The store a study was sent to, and the fingerprint of each record (fit, report) there."""

    store: str = ""
    records: dict[str, str] = field(default_factory=dict)

    @property
    def experiment_id(self) -> str:
        """The middle of ``<digest of the URI>-<experiment>-<time of its creation>``."""
        return self.store.split("-")[1]

    @classmethod
    def read(cls, study: Path) -> Self:
        return cls(**_read(study))

    def write(self, study: Path) -> None:
        _write(study, self)


def _read(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / FILE).read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}


def _write(folder: Path, sent: SentRun | SentStudy) -> None:
    draft = folder / f".{FILE}.{os.getpid()}"
    draft.write_text(json.dumps(asdict(sent)) + "\n")
    draft.replace(folder / FILE)
