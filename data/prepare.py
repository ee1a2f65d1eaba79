"""A corpus and a tokenizer to token stores, each made once and found again by its inputs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from data.corpus import CorpusConfig, MixtureConfig
from data.documents import SIDES, Tally
from data.errors import DataError, DiskFullError
from data.files import alone, file_sha256, make_folder, require_space, sha256, write_atomic
from data.megatron import token_type
from data.mixture import Mixture, Part
from data.pieces import Task
from data.progress import Meter, Progress, Report, waiting
from data.source import Source
from data.store import TokenStore
from data.tokenize import Job, Record, record_path, tokenize
from data.tokenizer import Tokenizer, TokenizerConfig, load, train

__all__ = [
    "MixtureConfig",
    "Prepared",
    "Progress",
    "prepare",
]

VERIFY_BYTES = 1 << 30  # a cached store up to this size is read in full before each use


@dataclass(frozen=True)
class Prepared:
    """Tokens ready for training: `train` and `heldout` are folders for `data.mixture.Mixture.open`,
    token stores if there is one corpus. `ledger` says what became of every document."""

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
    corpus: CorpusConfig | MixtureConfig,
    tokenizer: TokenizerConfig,
    cache: Path,
    workers: int = 0,
    progress: Report | None = None,
    verify: bool | None = None,
) -> Prepared:
    """Return the stores of this corpus under this tokenizer, making what is not in `cache`.

    Those of a mixture share one tokenizer, trained on all of its corpora by weight. With
    `workers` > 0 that many Ray tasks run at a time (the caller has initialised Ray, and every node
    sees `cache` and the corpora). Stopped at any moment and called again, it redoes unfinished
    shards alone. What is there is checked by size and, if `verify` (by default: up to 1 GiB), by
    hash; damaged shards are made again. Raises `DataError` over a missing or empty corpus, an
    unfit tokenizer, a damaged source file, too little disk, or a split with an empty side.
    """
    if isinstance(corpus, CorpusConfig):
        source = _source(corpus, cache, workers, progress)
        return _stores(source, *_tokenizer([(source, 1.0)], tokenizer), verify)
    sources = [_source(part.corpus, cache, workers, progress) for part in corpus.parts]
    weights = [part.weight / sum(p.weight for p in corpus.parts) for part in corpus.parts]
    path, made = _tokenizer(list(zip(sources, weights, strict=True)), tokenizer)
    return _mixed(corpus, [_stores(source, path, made, verify) for source in sources], cache)


def _mixed(config: MixtureConfig, stores: list[Prepared], cache: Path) -> Prepared:
    """The mixture of prepared corpora, on either side of the split."""

    def side(folders: list[Path]) -> Mixture:
        return Mixture(
            tuple(
                Part(part.corpus.name, TokenStore.open(folder), part.weight, part.max_epochs)
                for part, folder in zip(config.parts, folders, strict=True)
            )
        )

    train, heldout = side([made.train for made in stores]), side([made.heldout for made in stores])
    key = sha256(train.fingerprint, heldout.fingerprint)[:16]
    folder = Path(cache).expanduser().absolute() / "mixtures" / f"{config.name}-{key}"
    train.save(folder / "train")
    heldout.save(folder / "heldout")
    ledger = Tally()
    for made in stores:
        ledger.add(made.ledger)
    return replace(
        stores[0],
        name=config.name,
        train=folder / "train",
        heldout=folder / "heldout",
        ledger=ledger,
    )


def _source(corpus: CorpusConfig, cache: Path, workers: int, progress: Report | None) -> Source:
    folder = Path(cache).expanduser().absolute()
    return Source.find(corpus, folder, workers, progress or (lambda _: None))


def _stores(source: Source, path: Path, tokenizer: Tokenizer, verify: bool | None) -> Prepared:
    name = f"{source.corpus.name}-{sha256(source.identity, tokenizer.fingerprint)[:16]}"
    folder = make_folder(source.cache / "tokens") / name
    with alone(folder.with_suffix(".lock"), waiting(source.report)):
        ledger = _finished(folder, verify)
        if ledger is None:
            job = Job(make_folder(folder), source.corpus, tokenizer.text, tokenizer.end_token)
            ledger = _make(job, tokenizer, source, verify)
    return Prepared(
        name=source.corpus.name,
        tokenizer=path,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
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
    source: Source,
    verify: bool | None,
) -> Tally:
    for name in (*SIDES, "shards"):
        for remains in make_folder(job.folder / name).glob(".*.tmp"):
            remains.unlink(missing_ok=True)
    dtype, tasks = token_type(tokenizer.vocab_size), source.tasks
    records = _kept(job.folder, tasks, verify)
    missing = [task for task in tasks if task.number not in records]
    require_space(job.folder, _bytes_needed(missing, dtype.itemsize))
    meter = Meter("tokenize", len(tasks), source.report, done=len(records))

    def done(task: Task, record: Record) -> None:
        records[task.number] = record
        meter.add(record.tally)

    try:
        tokenize(job, missing, source.workers, done)
    except DiskFullError as error:
        left = [task for task in missing if task.number not in records]
        needed = _bytes_needed(left, dtype.itemsize)
        raise DataError(f"{error}; about {needed:,} more bytes are needed") from error
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


def _bytes_needed(tasks: Sequence[Task], token_bytes: int) -> int:
    """Tokenizers of practical sizes make at most one token of two bytes of text."""
    text_bytes = sum(piece.size or 0 for task in tasks for piece in task.pieces)
    return text_bytes // 2 * token_bytes


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
    sources: Sequence[tuple[Source, float]], config: TokenizerConfig
) -> tuple[Path, Tokenizer]:
    """The tokenizer and its file in the cache, trained there first if need be."""
    first, _ = sources[0]
    cache = first.cache / "tokenizers"
    if config.kind == "file":
        loaded = load(config)
        folder = make_folder(cache) / loaded.fingerprint[:16]
    else:
        identities = [f"{source.identity} {weight}" for source, weight in sources]
        key = sha256(*identities, config.model_dump_json(), version("tokenizers"))
        folder = make_folder(cache) / f"{first.corpus.name}-{key[:16]}"
    path = folder / "tokenizer.json"
    with alone(folder.with_suffix(".lock"), waiting(first.report)):
        if (tokenizer := _cached_tokenizer(path, config)) is None:
            texts = chain.from_iterable(
                source.training_texts(int(config.sample_bytes * weight))
                for source, weight in sources
            )
            tokenizer = loaded if config.kind == "file" else train(config, texts)
            make_folder(folder)
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
