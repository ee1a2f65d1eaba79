"""Documents to leave out: exact copies, near copies, and what overlaps an evaluation set.

A first pass over the shards marks every document: 16 bytes of hash and, for near copies, a MinHash
of its word 5-grams (Broder 1997, by `datasketch`). The marks meet in one process, about 16 bytes a
document or 0.6 KB with MinHash, and each shard gets the list of documents that it leaves out.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.corpus import CorpusConfig, scan
from data.documents import Tally, documents
from data.errors import under
from data.files import make_folder, write_atomic
from data.order import mix
from data.pieces import Task, pieces
from data.shingles import Hashes, Signature, ngrams, signature, word_hashes

SHINGLE_WORDS = 5
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MarkJob:
    folder: Path
    corpus: CorpusConfig


@dataclass(frozen=True)
class Marks:
    """What is known of each of n documents: (n, 2) hashes, sides, (n, 128 or 0) MinHashes,
    overlaps."""

    digests: Hashes
    heldout: Mask
    signatures: Signature
    overlaps: Mask

    def save(self, path: Path) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **vars(self))
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Marks":
        with np.load(path) as arrays:
            return cls(**arrays)


Run = Callable[[Callable[[MarkJob, Task], Tally], MarkJob, list[Task]], None]


def without_copies(job: MarkJob, tasks: Sequence[Task], run: Run) -> list[Task]:
    """The tasks, each with the documents it shall leave out. `run` maps a function over tasks.

    What earlier calls left on disk is not done again.
    """
    make_folder(job.folder)
    drops = [job.folder / f"{task.name}.json" for task in tasks]
    if not all(path.exists() for path in drops):
        if job.corpus.decontaminate:
            buffer = io.BytesIO()
            np.save(buffer, _evaluation_grams(job.corpus))
            write_atomic(job.folder / "grams.npy", buffer.getvalue())
        paths = [job.folder / f"{task.name}.npz" for task in tasks]
        run(mark_shard, job, [t for t, path in zip(tasks, paths, strict=True) if not path.exists()])
        found = find_drops(job.corpus, [Marks.load(path) for path in paths])
        for path, reasons in zip(drops, found, strict=True):
            write_atomic(path, json.dumps(reasons).encode())
    return [replace(task, drops=path) for task, path in zip(tasks, drops, strict=True)]


def mark_shard(job: MarkJob, task: Task) -> Tally:
    """Write the marks of a shard's documents, in order."""
    tally = Tally()
    digests, heldout, signatures, overlaps = [], [], [], []
    grams = (
        np.load(job.folder / "grams.npy") if job.corpus.decontaminate else np.empty(0, np.uint64)
    )
    for placed in documents(job.corpus, task, tally):
        tally.bytes[placed.side] += len(placed.document.data)
        digests.append(placed.digest)
        heldout.append(placed.side == "heldout")
        words = word_hashes(placed)
        if job.corpus.duplicates == "near":
            signatures.append(signature(ngrams(words, SHINGLE_WORDS)))
        found = grams.size and len(words) >= job.corpus.overlap_words
        overlaps.append(
            bool(found and np.isin(ngrams(words, job.corpus.overlap_words), grams).any())
        )
    Marks(
        np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2),
        np.array(heldout, bool),
        np.array(signatures) if signatures else np.empty((len(digests), 0), np.uint32),
        np.array(overlaps, bool),
    ).save(job.folder / f"{task.name}.npz")
    return tally


def find_drops(config: CorpusConfig, marks: Sequence[Marks]) -> list[dict[str, list[int]]]:
    """For each shard, the numbers of the documents to drop by reason; one reason each."""
    heldout = np.concatenate([m.heldout for m in marks])
    reasons: dict[str, Mask] = {}
    left = np.ones(len(heldout), bool)
    if config.duplicates != "keep":
        reasons["duplicate"] = _copies(np.concatenate([m.digests for m in marks]))
        left &= ~reasons["duplicate"]
    if config.duplicates == "near" and left.any():
        kept = np.flatnonzero(left)
        signatures = np.concatenate([m.signatures for m in marks if len(m.signatures)])[kept]
        dropped, of_heldout = near_copies(signatures, heldout[kept], config.near_threshold)
        for name, chosen in (
            ("near_duplicate", dropped & ~of_heldout),
            ("near_heldout", of_heldout),
        ):
            reasons[name] = np.zeros(len(heldout), bool)
            reasons[name][kept[chosen]] = True
        left[kept[dropped]] = False
    if config.decontaminate:
        reasons["overlap"] = np.concatenate([m.overlaps for m in marks]) & ~heldout & left
    ends = np.cumsum([len(m.heldout) for m in marks])[:-1]
    return [
        {name: np.flatnonzero(part).tolist() for name, part in zip(reasons, parts, strict=True)}
        for parts in zip(*(np.split(mask, ends) for mask in reasons.values()), strict=True)
    ]


def _copies(digests: Hashes) -> Mask:
    """All but the first of each set of equal rows."""
    rows = np.ascontiguousarray(digests).view([("", np.uint64)] * 2).ravel()
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    mask: Mask = first[inverse] != np.arange(len(rows))
    return mask


def near_copies(signatures: Signature, heldout: Mask, threshold: float) -> tuple[Mask, Mask]:
    """Which documents to drop, and which of them for the sake of a held-out one.

    Candidates agree in a band of their signatures (locality-sensitive hashing; bands and rows are
    datasketch's optimum for the threshold) and count as near when the signatures agree in a share
    `threshold` of places. Of each connected set, the first held-out document stays, else the first.
    """
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=signatures.shape[1])
    count = len(signatures)
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for band in range(index.b):
        columns = signatures[:, band * index.r : (band + 1) * index.r]
        for low, high in _candidates(columns):
            if np.mean(signatures[low] == signatures[high]) >= threshold:
                parent[root(high)] = root(low)
    roots = np.array([root(node) for node in range(count)], np.int64)
    rank = np.arange(count) + count * ~heldout
    best = np.full(count, 2 * count)
    np.minimum.at(best, roots, rank)
    dropped: Mask = rank != best[roots]
    return dropped, dropped & ~heldout & (best[roots] < count)


def _candidates(columns: Signature) -> Iterator[tuple[int, int]]:
    """Pairs of the first row of each set of rows with equal columns and every other one."""
    key = np.zeros(len(columns), np.uint64)
    for number in range(columns.shape[1]):
        key = mix(key ^ columns[:, number], number + 1)
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    others = np.flatnonzero(first[inverse] != np.arange(len(key)))
    return zip(first[inverse[others]].tolist(), others.tolist(), strict=True)


def _evaluation_grams(config: CorpusConfig) -> Hashes:
    found = [np.empty(0, np.uint64)]
    for number, evaluation in enumerate(config.decontaminate):
        plain = CorpusConfig(
            name=f"evaluation-{number}",
            source=evaluation.source,
            text_column=evaluation.text_column,
        )
        with under("decontaminate", number):
            whole = Task(0, tuple(pieces(plain, scan(plain))))
            for placed in documents(plain, whole, Tally()):
                words = word_hashes(placed)
                if len(words) >= config.overlap_words:
                    found.append(ngrams(words, config.overlap_words))
    return np.unique(np.concatenate(found))
