"""A corpus that was found: its identity, its shards, its training texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data.corpus import CorpusConfig, scan
from data.documents import Tally, documents
from data.duplicates import MarkJob, without_copies
from data.errors import DataError
from data.files import alone, make_folder, sha256
from data.pieces import Task, plan
from data.progress import Meter, Report, waiting
from data.tokenize import run_tasks

# The modules that decide which tokens are written; a change in any of them makes new stores.
CODE = (
    "compressed",
    "corpus",
    "documents",
    "duplicates",
    "encode",
    "hub",
    "megatron",
    "pieces",
    "readers",
    "shingles",
    "text",
    "tokenize",
    "tokenizer",
    "words",
)
TRAINING_SHARDS = 64  # a tokenizer is trained on at most this many shards, evenly spread


@dataclass(frozen=True)
class Source:
    """`identity` covers the configuration, the documents found and the code that reads them."""

    corpus: CorpusConfig
    identity: str
    cache: Path
    workers: int
    report: Report

    @classmethod
    def find(cls, corpus: CorpusConfig, cache: Path, workers: int, report: Report) -> "Source":
        identity = sha256(corpus.model_dump_json(), scan(corpus).digest, code_digest())
        return cls(corpus, identity, cache, workers, report)

    @cached_property
    def tasks(self) -> list[Task]:
        """The shards. Looked for only when something is to be made: a hub is then asked, and copies
        are searched."""
        tasks = plan(self.corpus, scan(self.corpus))
        if not self.corpus.cleans:
            return tasks
        name = f"{self.corpus.name}-{self.identity[:16]}"
        folder = make_folder(self.cache / "duplicates") / name
        meter = Meter("deduplicate", len(tasks), self.report)
        with alone(folder.with_suffix(".lock"), waiting(self.report)):
            return without_copies(
                MarkJob(folder, self.corpus),
                tasks,
                lambda function, job, missing: run_tasks(
                    function, job, missing, self.workers, lambda _, tally: meter.add(tally)
                ),
            )

    def training_texts(self, sample_bytes: int) -> Iterator[str]:
        """Training documents, about `sample_bytes`, evenly over evenly spread shards."""
        chosen = self.tasks[:: -(-len(self.tasks) // TRAINING_SHARDS)]
        meter = Meter("train tokenizer", len(chosen), self.report)
        total = Tally()
        for task in chosen:
            used = Tally()
            for document, side, _ in documents(self.corpus, task, Tally()):
                if side == "train":
                    yield document.text
                    used.bytes[side] += len(document.data)
                if used.bytes[side] >= sample_bytes // len(chosen):
                    break
            meter.add(used)
            total.add(used)
        if not total.bytes:
            raise DataError(
                f"{self.corpus.name} has no training documents: "
                "all are empty, filtered or held out",
                ("heldout",),
            )


def code_digest() -> str:
    folder = Path(__file__).parent
    return sha256(*((folder / f"{name}.py").read_bytes() for name in CODE))
