"""Shards of documents to shards of tokens: in this process or as Ray tasks, the same bytes.

A shard is a function of the corpus and the tokenizer alone. Its files are renamed into place before
its record is, so a record vouches for whole files, and what has no record is done again.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar

from data.corpus import CorpusConfig
from data.documents import SIDES, Side, Tally, documents
from data.encode import encode
from data.errors import DataError
from data.files import atomic, sha256_bytes, write_atomic
from data.megatron import Writer
from data.pieces import Task
from data.store import Shard
from data.tokenizer import Tokenizer
from data.words import Encoder

RAY_RETRIES = 3
J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """All that a worker needs; `folder` is on a disk that every worker sees."""

    folder: Path
    corpus: CorpusConfig
    tokenizer: str
    end_of_document: str


@dataclass(frozen=True)
class Record:
    """A committed shard: its files on both sides of the split, and what became of its documents."""

    shards: dict[Side, Shard]
    tally: Tally

    def save(self, path: Path) -> None:
        shards = {side: shard._asdict() for side, shard in self.shards.items()}
        record = {"shards": shards, "tally": self.tally.to_dict()}
        write_atomic(path, json.dumps(record, indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> "Record":
        record = json.loads(path.read_bytes())
        shards = {side: Shard(**record["shards"][side]) for side in SIDES}
        return cls(shards, Tally.from_dict(record["tally"]))


def record_path(folder: Path, task: Task) -> Path:
    return folder / "shards" / f"{task.name}.json"


def tokenize_shard(job: Job, task: Task) -> Record:
    """Make and commit one shard."""
    encoder = _encoder(job.tokenizer, job.end_of_document)
    dtype = encoder.dtype
    tally = Tally()
    shards: dict[Side, Shard] = {}
    with ExitStack() as stack:
        writers = {side: Writer(dtype) for side in SIDES}
        files: dict[Side, IO[bytes]] = {
            side: stack.enter_context(atomic(job.folder / side / f"{task.name}.bin"))
            for side in SIDES
        }
        for placed, tokens in encode(encoder, documents(job.corpus, task, tally)):
            writers[placed.side].add(files[placed.side], tokens)
            tally.documents[placed.side] += 1
            tally.bytes[placed.side] += len(placed.document.data)
            tally.tokens[placed.side] += len(tokens)
    for side, writer in writers.items():
        index = writer.index()
        write_atomic(job.folder / side / f"{task.name}.idx", index)
        shards[side] = Shard(
            name=task.name,
            tokens=tally.tokens[side],
            documents=tally.documents[side],
            bytes=tally.bytes[side],
            bin_bytes=tally.tokens[side] * dtype.itemsize,
            bin_sha256=writer.digest.hexdigest(),
            idx_bytes=len(index),
            idx_sha256=sha256_bytes(index),
        )
    record = Record(shards, tally)
    record.save(record_path(job.folder, task))
    return record


@lru_cache(maxsize=1)
def _encoder(text: str, end_of_document: str) -> Encoder:
    """Kept between shards, with the words it remembers."""
    return Encoder(Tokenizer(text, end_of_document))


def tokenize(
    job: Job, tasks: Sequence[Task], workers: int, done: Callable[[Task, Record], None]
) -> None:
    """Make these shards; `done` is called as each is committed."""
    run_tasks(tokenize_shard, job, tasks, workers, done)


def run_tasks(
    function: Callable[[J, Task], R],
    job: J,
    tasks: Sequence[Task],
    workers: int,
    done: Callable[[Task, R], None],
) -> None:
    """Call `function(job, task)` for each task, `workers` of them at a time as Ray tasks, or, with
    0, in this process. Ray must have been initialised by the caller."""
    if workers == 0:
        for task in tasks:
            done(task, function(job, task))
    else:
        _run_with_ray(function, job, tasks, workers, done)


def _run_with_ray(
    function: Callable[[J, Task], R],
    job: J,
    tasks: Sequence[Task],
    workers: int,
    done: Callable[[Task, R], None],
) -> None:
    import ray

    if not ray.is_initialized():
        raise RuntimeError("tokenizing with workers needs ray.init() first (or workers=0)")
    remote = ray.remote(num_cpus=1, max_retries=RAY_RETRIES)(_worker)
    shared = ray.put((function, job))
    waiting = list(reversed(tasks))
    running: dict[Any, Task] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.pop()
                running[remote.remote(shared, task)] = task
            (finished,), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(finished)
            done(task, ray.get(finished))
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, DataError) else error from None
    finally:
        for reference in running:
            ray.cancel(reference)


def _worker(shared: tuple[Callable[[J, Task], R], J], task: Task) -> R:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Ray runs one task a core
    os.environ.setdefault("USE_TORCH", "0")  # spares `datasets` 2 s and 300 MB a worker
    function, job = shared
    return function(job, task)
