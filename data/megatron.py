"""Megatron-LM's indexed dataset, `.bin` and `.idx`, byte for byte as megatron-core 0.16 writes it.

The `.bin` is the tokens of all documents and nothing else. The `.idx`, little endian: 9 bytes of
magic, version (u64), type code (u8), number of sequences (u64), number of document boundaries
(u64), each sequence's length (i32) and byte offset (i64), and the boundaries as sequence numbers
(i64), 0 first. Here a document is one sequence.
"""

import hashlib
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from data.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
CODES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
Tokens = npt.NDArray[np.integer]


def token_type(vocab_size: int) -> np.dtype[np.integer]:
    """16 bits below Megatron's own limit of 65,500 tokens, 32 from there."""
    return np.dtype(np.uint16 if vocab_size < 65_500 else np.int32)


class Writer:
    """Streams documents to an open `.bin` and, at the end, their index to an open `.idx`."""

    def __init__(self, dtype: np.dtype[np.integer]) -> None:
        self.dtype = dtype
        self.digest = hashlib.sha256()
        self.lengths = array("i")

    def add(self, file: IO[bytes], tokens: Tokens) -> None:
        """Append one document."""
        data = tokens.astype(self.dtype, copy=False).tobytes()
        file.write(data)
        self.digest.update(data)
        self.lengths.append(len(tokens))

    def index(self) -> bytes:
        lengths = np.frombuffer(self.lengths, np.int32) if self.lengths else np.empty(0, np.int32)
        ends = np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
        starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(lengths)]
        code = next(code for code, name in CODES.items() if name == self.dtype.name)
        header = HEADER.pack(MAGIC, 1, code, len(lengths), len(lengths) + 1)
        documents = np.arange(len(lengths) + 1, dtype=np.int64)
        return header + lengths.tobytes() + starts.tobytes() + documents.tobytes()


@dataclass(frozen=True)
class Index:
    """What an `.idx` says, its arrays memory-mapped: sequence lengths in tokens, and boundaries."""

    dtype: np.dtype[np.integer]
    lengths: npt.NDArray[np.integer]
    pointers: npt.NDArray[np.integer]
    documents: npt.NDArray[np.integer]

    @classmethod
    def open(cls, path: Path) -> "Index":
        with path.open("rb") as file:
            header = file.read(HEADER.size)
        try:
            magic, version, code, sequences, boundaries = HEADER.unpack(header)
        except struct.error as error:
            raise DataError(f"{path} is cut short: it has no whole header") from error
        if magic != MAGIC or version != 1 or code not in CODES:
            raise DataError(f"{path} is no Megatron index of version 1")
        expected = HEADER.size + 12 * sequences + 8 * boundaries
        if path.stat().st_size != expected:
            raise DataError(f"{path} is damaged: {path.stat().st_size} bytes instead of {expected}")
        at = HEADER.size
        lengths = memory_map(path, np.dtype(np.int32), at, sequences)
        pointers = memory_map(path, np.dtype(np.int64), at + 4 * sequences, sequences)
        documents = memory_map(path, np.dtype(np.int64), at + 12 * sequences, boundaries)
        return cls(np.dtype(CODES[code]), lengths, pointers, documents)


def memory_map(
    path: Path, dtype: np.dtype[np.integer], offset: int = 0, count: int | None = None
) -> Tokens:
    """A read-only view of a file as a plain array; indexing an `np.memmap` costs 1 us more."""
    if count == 0 or path.stat().st_size == offset:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, "r", offset, count))
