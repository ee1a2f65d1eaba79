"""Tokens on disk: numbered Megatron shards and a manifest that vouches for them.

A store is a folder. Shards are final where their workers wrote them: nothing is concatenated, a
damaged one is tokenized again alone, and each is a Megatron dataset in itself. Together they are
one stream.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from data.files import Files, file_sha256, sha256, write_atomic
from data.megatron import Index, Tokens

FORMAT = 1


class Shard(NamedTuple):
    """A shard as it was committed; `bytes` counts the UTF-8 text that its tokens stand for."""

    name: str
    tokens: int
    documents: int
    bytes: int
    bin_bytes: int
    bin_sha256: str
    idx_bytes: int
    idx_sha256: str

    def damage(self, folder: Path, thorough: bool) -> str | None:
        """Say what is wrong with the files: sizes alone, or, thoroughly, every byte."""
        for suffix, size, digest in (
            ("bin", self.bin_bytes, self.bin_sha256),
            ("idx", self.idx_bytes, self.idx_sha256),
        ):
            path = f"{folder}/{self.name}.{suffix}"  # thousands of shards: no Path for each
            try:
                found = os.stat(path).st_size  # noqa: PTH116
            except FileNotFoundError:
                return f"{path} is missing"
            if found != size:
                return f"{path} has {found:,} bytes instead of {size:,}"
            if thorough and file_sha256(Path(path)) != digest:
                return f"{path} was altered: its SHA-256 is not the manifest's"
        return None


@dataclass(frozen=True)
class TokenStore:
    """All tokens of one side of a corpus, documents in order, each ended by `end_of_document`.

    `fingerprint` is of the content: the same tokens have the same one, wherever and whenever made.
    """

    folder: Path
    shards: tuple[Shard, ...]
    vocab_size: int
    end_of_document: int
    dtype: np.dtype[np.integer]
    fingerprint: str

    @classmethod
    def open(cls, folder: Path | str) -> "TokenStore":
        """Open in time independent of size. Raises `DataError` over missing or truncated shards."""
        folder = Path(folder)
        try:
            record = json.loads((folder / "manifest.json").read_bytes())
        except FileNotFoundError as error:
            raise DataError(f"there is no token store at {folder}") from error
        except ValueError as error:
            raise DataError(f"{folder / 'manifest.json'} is damaged: {error}") from error
        if record["format"] != FORMAT:
            raise DataError(f"{folder} has format {record['format']}, this program reads {FORMAT}")
        store = cls(
            folder,
            tuple(Shard(**shard) for shard in record["shards"]),
            record["vocab_size"],
            record["end_of_document"],
            np.dtype(record["dtype"]),
            record["fingerprint"],
        )
        store._refuse_damage(thorough=False)
        return store

    def save(self) -> None:
        """Write the manifest, the last file of a store: with it the store exists."""
        record = {
            "format": FORMAT,
            "vocab_size": self.vocab_size,
            "end_of_document": self.end_of_document,
            "dtype": self.dtype.name,
            "fingerprint": self.fingerprint,
            "shards": [shard._asdict() for shard in self.shards],
        }
        write_atomic(self.folder / "manifest.json", json.dumps(record, indent=1).encode())

    @classmethod
    def of(
        cls,
        folder: Path,
        shards: tuple[Shard, ...],
        vocab_size: int,
        end_of_document: int,
        dtype: np.dtype[np.integer],
    ) -> "TokenStore":
        """A store over shards that were just written, with the fingerprint of their content."""
        digests = [digest for shard in shards for digest in (shard.bin_sha256, shard.idx_sha256)]
        fingerprint = sha256(str(vocab_size), str(end_of_document), dtype.name, *digests)
        return cls(folder, shards, vocab_size, end_of_document, dtype, fingerprint)

    @cached_property
    def n_tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @cached_property
    def n_documents(self) -> int:
        return sum(shard.documents for shard in self.shards)

    @cached_property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    def window(self, start: int, length: int) -> Tokens:
        """Tokens [start, start + length)."""
        if not 0 <= start <= start + length <= self.n_tokens:
            raise IndexError(f"[{start}, {start + length}) is not within {self.n_tokens} tokens")
        window: Tokens = self.gather(np.array([start]), length)[0]
        return window

    def gather(self, starts: np.ndarray, length: int) -> Tokens:
        """Rows of `length` tokens, from each of `starts` on.

        Read, not mapped: a map of random windows needs a page table of its own, up to 4 KiB, for
        each of them, and a file that was cut short since then ends the process.
        """
        rows = np.empty((len(starts), length), self.dtype)
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        offsets = (starts - self._starts[shards]) * self.dtype.itemsize
        size, data = length * self.dtype.itemsize, rows.view(np.uint8).reshape(-1).data
        places = zip(shards.tolist(), offsets.tolist(), strict=True)
        for row, (shard, offset) in enumerate(places):
            self._read(data[row * size : (row + 1) * size], shard, offset)
        return rows

    def _read(self, out: memoryview, shard: int, offset: int) -> None:
        """Fill `out` with the bytes from this one of a shard on, and of those after it."""
        while out:
            path, size = self._paths[shard]
            count = self._files.read(path, offset, out)
            if count < len(out) and offset + count != size:
                raise DataError(f"{path} ends after {offset + count:,} bytes instead of {size:,}")
            out, shard, offset = out[count:], shard + 1, 0

    def index(self, shard: int) -> Index:
        return Index.open(self.folder / f"{self.shards[shard].name}.idx")

    def damaged(self, thorough: bool = True) -> dict[str, str]:
        """What is wrong, by shard name; every byte is read unless only sizes are asked for."""
        found = ((shard.name, shard.damage(self.folder, thorough)) for shard in self.shards)
        return {name: damage for name, damage in found if damage}

    def verify(self) -> None:
        """Read every byte; raise `DataError` naming each truncated or altered file."""
        self._refuse_damage(thorough=True)

    def _refuse_damage(self, thorough: bool) -> None:
        if damaged := self.damaged(thorough):
            raise DataError("damaged token store: " + "; ".join(damaged.values()))

    @cached_property
    def _starts(self) -> np.ndarray:
        sizes = [shard.tokens for shard in self.shards]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)

    @cached_property
    def _paths(self) -> list[tuple[str, int]]:
        return [(f"{self.folder}/{shard.name}.bin", shard.bin_bytes) for shard in self.shards]

    @cached_property
    def _files(self) -> Files:
        return Files()
