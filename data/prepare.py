"""A corpus and a tokenizer to token stores, each made once and found again by its inputs."""

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache as cache_result
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from data.corpus import CorpusConfig, scan
from data.documents import SIDES, Tally, documents
from data.duplicates import MarkJob, without_copies
from data.errors import DataError
from data.files import file_sha256, make_folder, require_space, sha256, write_atomic
from data.megatron import token_type
from data.pieces import Task, plan
from data.store import TokenStore
from data.tokenize import Job, Record, record_path, run_tasks, tokenize
from data.tokenizer import Tokenizer, TokenizerConfig, load, train

# The modules that decide which tokens are written; a change in any of them makes new stores.
CODE = (
    "compressed",
    "corpus",
    "documents",
    "duplicates",
    "hub",
    "megatron",
    "pieces",
    "readers",
    "shingles",
    "text",
    "tokenize",
    "tokenizer",
)
TRAINING_SHARDS = 64  # a tokenizer is trained on at most this many shards, evenly spread
VERIFY_BYTES = 1 << 30  # a cached store up to this size is read in full before each use


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


@dataclass(frozen=True)
class Prepared:
    """Token stores ready for training. `ledger` says what became of every document."""

    name: str
    tokenizer: Path
    tokenizer_fingerprint: str
    vocab_size: int
    train: Path
    heldout: Path
    ledger: Tally

    @property
    def train_tokens(self) -> int:
        """Unique training tokens."""
        return self.ledger.tokens["train"]

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of training text for each of its tokens, ends of documents counted."""
        return self.ledger.bytes["train"] / self.ledger.tokens["train"]


def prepare(
    corpus: CorpusConfig,
    tokenizer: TokenizerConfig,
    cache: Path,
    workers: int = 0,
    progress: Report | None = None,
    verify: bool | None = None,
) -> Prepared:
    """Return the stores of this corpus under this tokenizer, making what is not in `cache`.

    With `workers` > 0 that many Ray tasks run at a time (the caller has initialised Ray, and every
    node sees `cache` and the corpus). Stopped at any moment and called again, it redoes unfinished
    shards alone. What is there is checked by size and, if `verify` (by default: up to 1 GiB), by
    hash; damaged shards are made again. Raises `DataError` over a missing or empty corpus, an
    unfit tokenizer, a damaged source file, too little disk, or a split with an empty side.
    """
    report = progress or (lambda _: None)
    cache = Path(cache).expanduser().absolute()
    catalog = scan(corpus)
    against = [scan(evaluation).digest for evaluation in corpus.decontaminate]
    found = sha256(corpus.model_dump_json(), catalog.digest, *against, _code())

    @cache_result
    def tasks() -> list[Task]:
        planned = plan(corpus, catalog)
        if not corpus.cleans:
            return planned
        folder = make_folder(cache / "duplicates") / f"{corpus.name}-{found[:16]}"
        with alone(folder.with_suffix(".lock"), partial(report, Progress("wait", 0, 1))):
            meter = Meter("deduplicate", len(planned), report)
            return without_copies(
                MarkJob(folder, corpus),
                planned,
                lambda function, job, missing: run_tasks(
                    function, job, missing, workers, lambda _, tally: meter.add(tally)
                ),
            )

    path, made = _tokenizer(corpus, tokenizer, tasks, found, cache / "tokenizers", report)
    tokens = make_folder(cache / "tokens")
    folder = tokens / f"{corpus.name}-{sha256(found, made.fingerprint)[:16]}"
    with alone(folder.with_suffix(".lock"), partial(report, Progress("wait", 0, 1))):
        ledger = _finished(folder, verify)
        if ledger is None:
            job = Job(make_folder(folder), corpus, made.text, made.end_token)
            ledger = _make(job, made, tasks(), workers, report, verify)
    return Prepared(
        name=corpus.name,
        tokenizer=path,
        tokenizer_fingerprint=made.fingerprint,
        vocab_size=made.vocab_size,
        train=folder / "train",
        heldout=folder / "heldout",
        ledger=ledger,
    )


def _finished(folder: Path, verify: bool | None) -> Tally | None:
    """The ledger of stores that are complete and whole, or None."""
    try:
        stores = [TokenStore.open(folder / side) for side in SIDES]
        ledger = Tally.from_dict(json.loads((folder / "ledger.json").read_bytes()))
    except (DataError, OSError, ValueError, KeyError, TypeError):
        return None
    return None if any(store.damaged(_thorough(verify, ledger)) for store in stores) else ledger


def _thorough(verify: bool | None, ledger: Tally) -> bool:
    return ledger.tokens.total() * 4 <= VERIFY_BYTES if verify is None else verify


def _make(
    job: Job,
    tokenizer: Tokenizer,
    tasks: list[Task],
    workers: int,
    report: Report,
    verify: bool | None,
) -> Tally:
    for name in (*SIDES, "shards"):
        for remains in make_folder(job.folder / name).glob(".*.tmp"):
            remains.unlink(missing_ok=True)
    dtype = token_type(tokenizer.vocab_size)
    records = _kept(job.folder, tasks, verify)
    missing = [task for task in tasks if task.number not in records]
    text_bytes = sum(piece.size or 0 for task in missing for piece in task.pieces)
    # Tokenizers of practical sizes make at most one token of two bytes.
    require_space(job.folder, text_bytes // 2 * dtype.itemsize)
    meter = Meter("tokenize", len(tasks), report, done=len(records))

    def done(task: Task, record: Record) -> None:
        records[task.number] = record
        meter.add(record.tally)

    tokenize(job, missing, workers, done)
    ledger = Tally()
    for task in tasks:
        ledger.add(records[task.number].tally)
    for side in SIDES:
        if not ledger.tokens[side]:
            raise DataError(
                f"none of the {ledger.documents.total()} documents of {job.corpus.name} is on the "
                f"{side} side with heldout = {job.corpus.heldout}",
                ("heldout",),
            )
        shards = tuple(records[task.number].shards[side] for task in tasks)
        end = tokenizer.end_of_document
        TokenStore.of(job.folder / side, shards, tokenizer.vocab_size, end, dtype).save()
    write_atomic(job.folder / "ledger.json", json.dumps(ledger.to_dict(), indent=1).encode())
    return ledger


def _kept(folder: Path, tasks: list[Task], verify: bool | None) -> dict[int, Record]:
    """Records of shards that an earlier call committed and whose files are still whole."""
    records = {}
    for task in tasks:
        try:
            record = Record.load(record_path(folder, task))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        thorough = _thorough(verify, record.tally)
        if not any(shard.damage(folder / side, thorough) for side, shard in record.shards.items()):
            records[task.number] = record
    return records


def _tokenizer(
    corpus: CorpusConfig,
    config: TokenizerConfig,
    tasks: Callable[[], list[Task]],
    found: str,
    cache: Path,
    report: Report,
) -> tuple[Path, Tokenizer]:
    """The tokenizer and its file in the cache, trained there first if need be."""
    if config.kind == "file":
        tokenizer = load(config)
        folder = make_folder(cache / tokenizer.fingerprint[:16])
    else:
        key = sha256(found, config.model_dump_json(), version("tokenizers"))
        folder = make_folder(cache / f"{corpus.name}-{key[:16]}")
    path = folder / "tokenizer.json"
    with alone(folder.with_suffix(".lock"), partial(report, Progress("wait", 0, 1))):
        if config.kind != "file":
            cached = _cached_tokenizer(path, config)
            if cached is not None:
                return path, cached
            tokenizer = train(config, _training_texts(corpus, config, tasks(), report))
        write_atomic(path, tokenizer.text.encode())
        write_atomic(folder / "sha256", file_sha256(path).encode())
    return path, tokenizer


def _cached_tokenizer(path: Path, config: TokenizerConfig) -> Tokenizer | None:
    try:
        if (path.parent / "sha256").read_text() == file_sha256(path):
            return Tokenizer.load(path, config.end_of_document)
    except OSError:
        pass
    return None


def _training_texts(
    corpus: CorpusConfig, config: TokenizerConfig, tasks: list[Task], report: Report
) -> Iterator[str]:
    """Training documents, `sample_bytes` of them taken evenly over evenly spread shards."""
    chosen = tasks[:: -(-len(tasks) // TRAINING_SHARDS)]
    meter = Meter("train tokenizer", len(chosen), report)
    total = Tally()
    for task in chosen:
        used = Tally()
        for document, side, _ in documents(corpus, task, Tally()):
            if side == "train":
                yield document.text
                used.bytes[side] += len(document.data)
            if used.bytes[side] >= config.sample_bytes // len(chosen):
                break
        meter.add(used)
        total.add(used)
    if not total.bytes:
        raise DataError(
            f"{corpus.name} has no training documents: all are held out, filtered or empty",
            ("heldout",),
        )


def _code() -> str:
    """A digest of the code that decides which tokens are written."""
    folder = Path(__file__).parent
    return sha256(*((folder / f"{name}.py").read_bytes() for name in CODE))


@contextmanager
def alone(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`; call `waiting` first if another process has it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
