"""A corpus cut into pieces that are read independently, and the pieces grouped into shards."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.corpus import MIB, Catalog, CorpusConfig, CorpusFile, HubSource
from data.errors import missing_column

COMPRESSED = (".gz", ".zst")
TYPICAL_EXPANSION = 3
FEWEST_DOCUMENTS = 1000  # that a shard with a limit reads


@dataclass(frozen=True)
class Piece:
    """Bytes [start, stop) of JSON lines, row groups [start, stop) of Parquet, files [start, stop)
    of a hub data set, or one whole file. `size` is about its bytes of text, None where unknown."""

    path: str
    start: int
    stop: int
    size: int | None


@dataclass(frozen=True)
class Task:
    """One shard of a corpus: the first `limit` documents of its pieces. `drops` is a file of JSON,
    a reason to the numbers of the documents that are left out for it."""

    number: int
    pieces: tuple[Piece, ...]
    limit: int | None = None
    drops: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


def plan(config: CorpusConfig, catalog: Catalog) -> list[Task]:
    """Cut a corpus into shards of consecutive pieces; pieces of unknown size are shards of their
    own.

    `max_documents` is shared evenly among shards, or, where that would be under 1,000 each, among
    as many evenly spread shards as can have 1,000.
    """
    target = shard_bytes(catalog.size)
    groups: list[list[Piece]] = []
    room = 0
    for piece in pieces(config, catalog):
        if not groups or piece.size is None or piece.size > room:
            groups.append([])
            room = target
        groups[-1].append(piece)
        room -= target if piece.size is None else piece.size
    if config.max_documents is None:
        return [Task(number, tuple(group), None) for number, group in enumerate(groups)]
    used = min(len(groups), -(-config.max_documents // FEWEST_DOCUMENTS))
    return [
        Task(
            number,
            tuple(groups[number * len(groups) // used]),
            config.max_documents // used + (number < config.max_documents % used),
        )
        for number in range(used)
    ]


def shard_bytes(total: int) -> int:
    """The size of shards, a function of the corpus alone.

    Small corpora give 32 shards of 2 MiB or more, enough to keep workers busy; large ones shards of
    1 GiB, few enough that a store of 10^12 tokens has a short manifest.
    """
    return min(max(total // 32, 2 * MIB), 1024 * MIB)


def pieces(config: CorpusConfig, catalog: Catalog) -> list[Piece]:
    """All pieces of a corpus, in its one order."""
    if isinstance(config.source, HubSource):
        from data.hub import file_count

        return [
            Piece(config.source.repo, number, number + 1, None)
            for number in range(file_count(config.source))
        ]
    target = shard_bytes(catalog.size)
    return [piece for file in catalog.files for piece in _of_file(config, file, target)]


def _of_file(config: CorpusConfig, file: CorpusFile, target: int) -> Iterator[Piece]:
    if config.source.kind == "parquet":
        yield from _row_groups(config, file)
    elif config.source.kind == "jsonl" and not file.path.endswith(COMPRESSED):
        for start in range(0, file.size, target):
            stop = min(start + target, file.size)
            yield Piece(file.path, start, stop, stop - start)
    else:
        expansion = TYPICAL_EXPANSION if file.path.endswith(COMPRESSED) else 1
        yield Piece(file.path, 0, file.size, file.size * expansion)


def _row_groups(config: CorpusConfig, file: CorpusFile) -> Iterator[Piece]:
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(file.path)
    except (pyarrow.ArrowException, OSError):
        yield Piece(file.path, 0, 0, file.size)  # the reader will name it, by the corpus' policy
        return
    names = metadata.schema.to_arrow_schema().names
    if config.text_column not in names:
        raise missing_column(file.path, config.text_column, names)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = (group.column(column) for column in range(group.num_columns))
        size = sum(
            column.total_uncompressed_size
            for column in columns
            if column.path_in_schema.split(".")[0] == config.text_column
        )
        yield Piece(file.path, number, number + 1, size)
