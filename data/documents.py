"""Rows to clean documents, each on its side of the split, every decision counted."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from data.corpus import CorpusConfig
from data.pieces import Task
from data.readers import Row, dataset
from data.text import Document, clean

Side = Literal["train", "heldout"]
SIDES: tuple[Side, Side] = ("train", "heldout")


@dataclass
class Tally:
    """What became of the documents of some pieces. Bytes are UTF-8 bytes of clean text."""

    read: int = 0
    documents: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    damaged_files: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.read += other.read
        for name in ("documents", "bytes", "tokens", "dropped", "repaired"):
            getattr(self, name).update(getattr(other, name))
        self.damaged_files += other.damaged_files

    def to_dict(self) -> dict[str, Any]:
        return {
            name: dict(sorted(value.items())) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Tally":
        values: dict[str, Any] = {
            k: Counter(v) if isinstance(v, dict) else v for k, v in record.items()
        }
        return cls(**values)


class Placed(NamedTuple):
    """A document, its side of the split, and the 16 bytes of hash that decided it."""

    document: Document
    side: Side
    digest: bytes


def documents(config: CorpusConfig, task: Task, tally: Tally) -> Iterator[Placed]:
    """Yield the clean documents of a shard, in order."""
    drops = _drops(task)
    salt = hashlib.sha256(str(config.seed).encode()).digest()[:16]
    number = 0
    for row in dataset(config, task.pieces):
        if task.limit is not None and tally.read >= task.limit:
            return
        document = _admit(config, row, tally)
        if document is None:
            continue
        if number in drops:
            tally.dropped[drops[number]] += 1
        else:
            digest = hashlib.blake2b(document.data, digest_size=16, salt=salt).digest()
            held = int.from_bytes(digest[:8], "little") < config.heldout * 2.0**64
            yield Placed(document, "heldout" if held else "train", digest)
        number += 1


def _drops(task: Task) -> dict[int, str]:
    if task.drops is None:
        return {}
    reasons = json.loads(task.drops.read_bytes())
    return {number: reason for reason, numbers in reasons.items() for number in numbers}


def _admit(config: CorpusConfig, row: Row, tally: Tally) -> Document | None:
    if row["text"] is None:
        tally.dropped.update(row["notes"])
        if "corrupt_file" in row["notes"]:
            tally.damaged_files.append(row["origin"])
        return None
    tally.read += 1
    document = clean(row["text"])
    tally.repaired.update({*document.repairs, *row["notes"]})
    size = len(document.data)
    if not document.text or document.text.isspace():
        reason = "empty"
    elif size < config.min_bytes:
        reason = "too_short"
    elif config.max_bytes is not None and size > config.max_bytes:
        reason = "too_long"
    else:
        return document
    tally.dropped[reason] += 1
    return None
