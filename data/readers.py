"""Corpora as rows, through Hugging Face `datasets`, in bounded memory whatever the files hold.

Every corpus is a `datasets.IterableDataset` of `Row`s. The hub goes through `load_dataset`; local
files go through generators of our own inside the same class, because the library's builders for
text and JSON hold a whole document several times over, end at the first invalid byte and translate
line ends.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from data.corpus import CorpusConfig, Piece
from data.errors import DataError
from data.text import split

if TYPE_CHECKING:
    from datasets import IterableDataset

LINE_BYTES = 256 << 20
DAMAGE = (
    EOFError,
    OSError,
    ValueError,
)  # what gzip, zstandard and pyarrow raise over a damaged file


class Row(TypedDict):
    """A document as it was found, or, where `text` is None, why there is none (see `data.text`)."""

    text: bytes | str | None
    problem: str | None
    origin: str


Reader = Callable[[CorpusConfig, Piece], Iterator[Row]]


def dataset(config: CorpusConfig, pieces: Sequence[Piece]) -> "IterableDataset":
    """The rows of these pieces, in order, streamed."""
    from datasets import IterableDataset
    from datasets.iterable_dataset import ExamplesIterable

    # IterableDataset.from_generator is this line and a builder, which hashes the generator by
    # pickling it and leaves a lock file in the user's cache for every call.
    return IterableDataset(ExamplesIterable(_rows, {"config": config, "pieces": tuple(pieces)}))


def _rows(config: CorpusConfig, pieces: Sequence[Piece]) -> Iterator[tuple[int, Row]]:
    read = _READERS[config.source.kind]
    number = 0
    for piece in pieces:
        try:
            for row in read(config, piece):
                yield number, row
                number += 1
        except DAMAGE as error:
            if isinstance(error, DataError) or config.corrupt_files == "stop":
                raise DataError(f"cannot read {piece.path}: {error}", ("corrupt_files",)) from error
            yield number, Row(text=None, problem="corrupt_file", origin=piece.path)
            number += 1


def _read_file(config: CorpusConfig, piece: Piece) -> Iterator[Row]:
    with Path(piece.path).open("rb") as file:
        for number, part in enumerate(split(file, config.split_bytes)):
            problem = "split" if number == 1 else None
            yield Row(text=part, problem=problem, origin=piece.path)


_READERS: dict[str, Reader] = {"code": _read_file, "text": _read_file}
