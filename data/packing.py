"""Whole documents packed into sequences without cutting any that fits.

"Fewer Truncations Improve Language Modeling" (Ding et al. 2024, arXiv 2404.10830): documents longer
than a sequence are cut into full sequences and a rest; rests and shorter documents go, longest
first, each into the fullest sequence that has room. What stays empty is padding of weight 0.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.batch import Batch
from data.files import atomic, sha256
from data.megatron import memory_map
from data.store import TokenStore

BLOCK = 1 << 20  # documents packed together: bounds memory, costs a few sequences a block


def pack(lengths: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """The bin of each item, 0 to the number of bins, for items of 1 to `size`."""
    bins = np.empty(len(lengths), np.int64)
    open_bins: list[list[int]] = [[] for _ in range(size + 1)]  # by room left
    rooms = 0  # bit r is set where a bin has room r
    count = 0
    order = np.argsort(-lengths, kind="stable")
    for item, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            chosen = open_bins[room].pop()
            if not open_bins[room]:
                rooms ^= 1 << room
        else:
            room, chosen, count = size, count, count + 1
        bins[item] = chosen
        if room > length:
            open_bins[room - length].append(chosen)
            rooms |= 1 << (room - length)
    return bins


class PackedStore:
    """A store's documents as packed sequences of `length` positions.

    Every token is a target once, predicted from its own document: a document's first token from the
    end of document before it, a rest's from the token before it. Which pieces lie in which sequence
    is computed once and kept beside the store: 12 bytes for each piece.
    """

    def __init__(self, store: TokenStore, length: int) -> None:
        self.store = store
        self.length = length
        self.fingerprint = sha256("packed", store.fingerprint, str(length))
        folder = store.folder / f"packed-{length}"
        if not (folder / "ends").exists():
            _write_index(store, length, folder)
        self._starts = memory_map(folder / "starts", np.dtype(np.int64))
        self._lengths = memory_map(folder / "lengths", np.dtype(np.int32))
        self._ends = memory_map(folder / "ends", np.dtype(np.int64))
        self.n_sequences = len(self._ends)
        self.tokens = store.n_tokens

    def read(self, sequences: npt.NDArray[np.int64]) -> Batch:
        shape = (len(sequences), self.length)
        tokens = np.full(shape, self.store.end_of_document, np.int64)
        targets = np.full(shape, self.store.end_of_document, np.int64)
        weights = np.zeros(shape, np.float32)
        segments = np.zeros(shape, np.int32)
        positions = np.zeros(shape, np.int32)
        for row, sequence in enumerate(sequences.tolist()):
            first = int(self._ends[sequence - 1]) if sequence else 0
            at = 0
            pieces = range(first, int(self._ends[sequence]))
            for number, piece in enumerate(pieces):
                start, length = int(self._starts[piece]), int(self._lengths[piece])
                part = slice(at, at + length)
                before = min(start, 1)  # the token that the first one is predicted from
                window = self.store.window(start - before, before + length)
                targets[row, part] = window[before:]
                tokens[row, at + 1 - before : at + length] = window[:-1]
                weights[row, part] = 1
                segments[row, part] = number
                positions[row, part] = np.arange(length)
                at += length
            segments[row, at:] = len(pieces)
            positions[row, at:] = np.arange(self.length - at)
        return Batch(tokens, targets, weights, segments, positions)


def _write_index(store: TokenStore, length: int, folder: Path) -> None:
    """Write `starts` and `lengths` of all pieces by sequence, and, last, the `ends` of
    sequences."""
    folder.mkdir(exist_ok=True)
    done = 0
    with (
        atomic(folder / "ends") as ends,
        atomic(folder / "starts") as starts,
        atomic(folder / "lengths") as lengths,
    ):
        for begin, sizes in _blocks(store):
            piece_starts, piece_lengths = _pieces(begin, sizes, length)
            bins = pack(piece_lengths, length)
            order = np.argsort(bins, kind="stable")
            starts.write(piece_starts[order].tobytes())
            lengths.write(piece_lengths[order].astype(np.int32).tobytes())
            ends.write((done + np.cumsum(np.bincount(bins))).astype(np.int64).tobytes())
            done += len(piece_starts)


def _blocks(store: TokenStore) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Runs of documents: where each begins in the store, and the documents' lengths."""
    begin = 0
    for number in range(len(store.shards)):
        sizes = store.index(number).lengths.astype(np.int64)
        for low in range(0, len(sizes), BLOCK):
            block = sizes[low : low + BLOCK]
            yield begin, block
            begin += int(block.sum())


def _pieces(
    begin: int, sizes: npt.NDArray[np.int64], length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Start and length of each document's full sequences and rest."""
    counts = -(-sizes // length)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    document_starts = begin + np.cumsum(sizes) - sizes
    starts = np.repeat(document_starts, counts) + offsets * length
    lengths = np.minimum(np.repeat(sizes, counts) - offsets * length, length)
    return starts, lengths
