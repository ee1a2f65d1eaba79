"""What a corpus is (its configuration), and which files or hub shards it consists of."""

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from data.errors import DataError, Key, under
from data.files import sha256

MIB = 1 << 20


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class CodeSource(Strict):
    """A tree of source files, one document each. `root: stdlib` is this Python's own library."""

    kind: Literal["code"] = Field(description="a tree of source files")
    root: str = Field("stdlib", description="its folder; stdlib: this Python's own library")
    extensions: list[str] = Field([".py"], description="endings of the files that are read")
    exclude: list[str] = Field(
        ["site-packages", "dist-packages", "node_modules"],
        description="names of folders that are left out",
    )


class TextSource(Strict):
    """A folder of text files, one document each, or one such file."""

    kind: Literal["text"] = Field(description="text files")
    path: str = Field(description="a folder, or one file")
    extensions: list[str] = Field([".txt", ".md", ".rst"], description="endings of files")


class JsonlSource(Strict):
    """A file or folder of JSON lines, plain or compressed, one document a line."""

    kind: Literal["jsonl"] = Field(description="JSON lines, plain or compressed")
    path: str = Field(description="a folder, or one file")
    extensions: list[str] = Field(
        [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst"],
        description="endings of files",
    )


class ParquetSource(Strict):
    """A file or folder of Parquet, one document a row."""

    kind: Literal["parquet"] = Field(description="Parquet")
    path: str = Field(description="a folder, or one file")
    extensions: list[str] = Field([".parquet"], description="endings of files")


class HubSource(Strict):
    """A data set of the Hugging Face hub, streamed. `revision` pins the commit: 40 hex digits."""

    kind: Literal["hub"] = Field(description="a data set of the Hugging Face hub")
    repo: str = Field(description="its name there, owner/name")
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] = Field(
        description="the commit, 40 hex digits"
    )
    config: str | None = Field(None, description="which of its configurations; null: the default")
    split: str = Field("train", description="which of its splits")
    data_files: list[str] | None = Field(None, description="patterns of files; null: all")


LocalSource = CodeSource | TextSource | JsonlSource | ParquetSource
Source = Annotated[LocalSource | HubSource, Field(discriminator="kind")]


class EvaluationSet(Strict):
    """Texts that training documents must not overlap with."""

    source: Source = Field(description="where they are")
    text_column: str = Field("text", description="the field that holds the text")


class CorpusConfig(Strict):
    """A corpus and how it is filtered and split.

    `heldout` is the share of documents that are never trained on. A document's own text and `seed`
    decide, so every copy of a held-out document is held out with it and none is left in training.
    `min_bytes` and `max_bytes` drop shorter and longer documents; a document over `split_bytes` is
    read as several. `max_documents` is shared evenly among the corpus' shards, and each reads its
    first ones. `corrupt_files` says whether a damaged file ends the job or is counted and left.
    `duplicates` keeps one document of each set of equal ones (`exact`) or also of those whose word
    5-grams have an estimated Jaccard similarity of `near_threshold` (`near`), where a held-out one
    goes before any other. `decontaminate` drops training documents that have `overlap_words`
    successive words in common with an evaluation set.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = Field(
        description="of the corpus, and of its tokens in the cache"
    )
    source: Source = Field(description="where the documents are")
    text_column: str = Field("text", description="the field that holds the text")
    heldout: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.02, description="share of documents that are never trained on"
    )
    seed: int = Field(0, description="of the choice of held-out documents")
    min_bytes: Annotated[int, Field(ge=0)] = Field(0, description="shorter documents are dropped")
    max_bytes: Annotated[int, Field(gt=0)] | None = Field(
        None, description="longer documents are dropped; null: none"
    )
    split_bytes: Annotated[int, Field(ge=64)] = Field(
        16 * MIB, description="a longer document is read as several"
    )
    max_documents: Annotated[int, Field(gt=0)] | None = Field(
        None, description="so many at most, shared evenly by the shards; null: all"
    )
    corrupt_files: Literal["stop", "skip"] = Field(
        "stop", description="a damaged file ends the job, or is counted and left"
    )
    duplicates: Literal["keep", "exact", "near"] = Field(
        "keep", description="keep all, or one of each set of equal or of similar documents"
    )
    near_threshold: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.8, description="Jaccard similarity of word 5-grams from which documents are near"
    )
    decontaminate: list[EvaluationSet] = Field(
        [], description="evaluation sets that training documents must not overlap with"
    )
    overlap_words: Annotated[int, Field(gt=0)] = Field(
        13, description="successive words in common that make an overlap"
    )

    @property
    def cleans(self) -> bool:
        """Whether documents are compared with others before they are tokenized."""
        return self.duplicates != "keep" or bool(self.decontaminate)


class MixturePart(Strict):
    """A corpus of a mixture."""

    corpus: CorpusConfig = Field(description="a file, a name in configs/corpora, or its keys")
    weight: Annotated[float, Field(gt=0)] = Field(1.0, description="its share of the tokens")
    max_epochs: Annotated[float, Field(gt=0)] | None = Field(
        None, description="passes over it at most, then the others go on; null: any number"
    )


class MixtureConfig(Strict):
    """Corpora that are trained on together, by weight of their tokens (see `data.mixture`)."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = Field(
        "mixture", description="of the mixture"
    )
    parts: Annotated[list[MixturePart], Field(min_length=1)] = Field(description="its corpora")


class CorpusFile(NamedTuple):
    path: str
    size: int


@dataclass(frozen=True)
class Catalog:
    """The local files of a corpus in their one order, and a digest that changes when it does."""

    files: tuple[CorpusFile, ...]
    digest: str

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files)


def scan(config: CorpusConfig | EvaluationSet) -> Catalog:
    """Find the corpus. Raises `DataError` if it is missing or has no documents.

    The digest covers each local file's path below the root, size, and times of last change of
    content and of inode: no file is read, and no ordinary edit escapes. A hub corpus is its pinned
    revision, and is not asked for here. Evaluation sets to decontaminate for are part of the
    digest.
    """
    against = [_against(*item) for item in enumerate(getattr(config, "decontaminate", []))]
    if isinstance(config.source, HubSource):
        return Catalog((), sha256(config.source.model_dump_json(), *against))
    root, key = _root(config.source)
    files, facts = [], []
    for path in _files(root, config.source, key):
        stat = path.stat()
        facts.append(os.fsencode(path.relative_to(root)))
        facts.append(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}".encode())
        files.append(CorpusFile(str(path), stat.st_size))
    if not any(file.size for file in files):
        raise DataError(
            f"{root} holds no documents: {len(files)} files end in "
            f"{', '.join(config.source.extensions)}" + (", all empty" if files else ""),
            key,
        )
    return Catalog(tuple(files), sha256(*facts, *against))


def _against(number: int, evaluation: EvaluationSet) -> str:
    with under("decontaminate", number):
        return scan(evaluation).digest


def _root(source: LocalSource) -> tuple[Path, Key]:
    name = "root" if isinstance(source, CodeSource) else "path"
    given = source.root if isinstance(source, CodeSource) else source.path
    standard = isinstance(source, CodeSource) and given == "stdlib"
    root = Path(sysconfig.get_path("stdlib") if standard else given).expanduser().absolute()
    if not root.exists():
        raise DataError(f"there is no corpus at {root}", ("source", name))
    return root, ("source", name)


def _files(root: Path, source: LocalSource, key: Key) -> Iterator[Path]:
    """Files below `root` by name, depth first, in the order of their names' bytes."""
    if root.is_file():
        yield root
        return
    excluded = set(source.exclude) if isinstance(source, CodeSource) else set()
    try:
        entries = sorted(os.scandir(root), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise DataError(f"cannot read the corpus folder {root}: {error.strerror}", key) from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in excluded and not entry.name.startswith("."):
                yield from _files(root / entry.name, source, key)
        elif entry.name.endswith(tuple(source.extensions)) and entry.is_file():
            yield root / entry.name
