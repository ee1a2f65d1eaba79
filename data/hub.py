"""Data sets of the Hugging Face hub, at a pinned revision, streamed file by file."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from data.corpus import CorpusConfig, HubSource
from data.errors import DataError, missing_column
from data.pieces import Piece

if TYPE_CHECKING:
    from datasets import IterableDataset


def file_count(source: HubSource) -> int:
    count: int = _open(source).num_shards
    return count


def hub_texts(config: CorpusConfig, piece: Piece) -> Iterator[str | None]:
    """The text column of one file of the data set; None where it holds no text."""
    assert isinstance(config.source, HubSource)
    column = config.text_column
    stream = _open(config.source)
    if stream.column_names is not None and column not in stream.column_names:
        raise missing_column(config.source.repo, column, stream.column_names)
    stream = stream.select_columns([column])
    for row in stream.shard(num_shards=stream.num_shards, index=piece.start):
        yield row[column] if isinstance(row[column], str) else None


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
    except Exception as error:  # the client raises many kinds: offline, gated, missing, misnamed
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"cannot open {source.repo} on the hub: {reason}", ("source", "repo")
        ) from error
