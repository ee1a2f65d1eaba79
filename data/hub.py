"""Data sets of the Hugging Face hub, at a pinned revision, streamed shard by shard."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from data.corpus import Catalog, CorpusConfig, HubSource, Piece
from data.errors import DataError
from data.files import sha256

if TYPE_CHECKING:
    from datasets import IterableDataset


def scan_hub(source: HubSource) -> Catalog:
    """One piece for each file of the data set; the pinned revision identifies them all."""
    count = _open(source).num_shards
    pieces = [Piece(path=source.repo, start=i, stop=i + 1, size=None) for i in range(count)]
    return Catalog(pieces, sha256(source.model_dump_json()))


def hub_texts(config: CorpusConfig, piece: Piece) -> Iterator[object]:
    """The text column of the shards of a piece."""
    assert isinstance(config.source, HubSource)
    column = config.text_column
    stream = _open(config.source)
    if stream.column_names is not None and column not in stream.column_names:
        raise DataError(
            f"{config.source.repo} has no column {column!r}: it has "
            + ", ".join(stream.column_names),
            ("text_column",),
        )
    for row in stream.shard(num_shards=stream.num_shards, index=piece.start):
        yield row.get(column)


def _open(source: HubSource) -> "IterableDataset":
    from datasets import load_dataset

    try:
        return load_dataset(
            source.repo,
            source.config,
            split=source.split,
            revision=source.revision,
            data_files=source.data_files,
            streaming=True,
        )
    except (
        Exception
    ) as error:  # the hub client raises many kinds: offline, gated, missing, misnamed
        raise DataError(
            f"cannot open the data set {source.repo}: {error}", ("source", "repo")
        ) from error
