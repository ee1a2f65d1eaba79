"""Corpora as rows, through Hugging Face `datasets`, in bounded memory whatever the files hold.

Every corpus is a `datasets.IterableDataset` of `Row`s. The hub goes through `load_dataset`; local
files go through generators of our own inside the same class, because the library's builders for
text and JSON hold a whole document several times over, end at the first invalid byte and translate
line ends.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TypedDict

from data.compressed import DAMAGE, open_file
from data.corpus import MIB, CorpusConfig
from data.errors import DataError, missing_column
from data.hub import hub_texts
from data.pieces import COMPRESSED, Piece
from data.text import split

if TYPE_CHECKING:
    from datasets import IterableDataset

LINE_BYTES = 128 * MIB


class Row(TypedDict):
    """A document as it was found and what was already done to it, or, where `text` is None, why
    there is none. The names in `notes` are those of `data.text`."""

    text: bytes | str | None
    notes: tuple[str, ...]
    origin: str


class CorruptFileError(DataError):
    """A file that its own format does not let be read to the end."""


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
        except CorruptFileError:
            if config.corrupt_files == "stop":
                raise
            yield number, Row(text=None, notes=("corrupt_file",), origin=piece.path)
            number += 1


@contextmanager
def _named(piece: Piece, *damage: type[Exception]) -> Iterator[None]:
    try:
        yield
    except damage as error:
        raise CorruptFileError(
            f"cannot read {piece.path}: {error or type(error).__name__} "
            "(`skip` would count it and go on)",
            ("corrupt_files",),
        ) from error


def _read_file(config: CorpusConfig, piece: Piece) -> Iterator[Row]:
    with _named(piece, *DAMAGE), open_file(piece.path) as file:
        yield from _parts(file, config, piece)


def _read_lines(config: CorpusConfig, piece: Piece) -> Iterator[Row]:
    """JSON lines that begin within the piece."""
    first = True
    with _named(piece, *DAMAGE), open_file(piece.path) as file:
        for line in _lines(file, piece):
            if line is None:
                yield Row(text=None, notes=("line_too_long",), origin=piece.path)
                continue
            record, notes = _parse(line)
            if first and isinstance(record, dict) and config.text_column not in record:
                raise missing_column(piece.path, config.text_column, record)
            first = False
            text = record.get(config.text_column) if isinstance(record, dict) else None
            if isinstance(text, str):
                yield from _texts(text, config, piece, notes)
            elif line.strip():
                yield Row(text=None, notes=("malformed",), origin=piece.path)


def _lines(file: IO[bytes], piece: Piece) -> Iterator[bytes | None]:
    """Lines that begin at [start, stop) of the file; None for one over LINE_BYTES."""
    at = piece.start
    if at > 0:
        file.seek(at - 1)
        at += _rest_of_line(file) - 1
    whole = piece.path.endswith(COMPRESSED)
    while (whole or at < piece.stop) and (line := file.readline(LINE_BYTES + 1)):
        at += len(line)
        if len(line) > LINE_BYTES and not line.endswith(b"\n"):
            at += _rest_of_line(file)
            yield None
        else:
            yield line


def _rest_of_line(file: IO[bytes]) -> int:
    """Read to the next line; return how many bytes that was."""
    count = 0
    while part := file.readline(MIB):
        count += len(part)
        if part.endswith(b"\n"):
            break
    return count


def _parse(line: bytes) -> tuple[Any, tuple[str, ...]]:
    try:
        return json.loads(line.decode("utf-8-sig")), ()
    except UnicodeDecodeError:
        notes: tuple[str, ...] = ("invalid_utf8",)
        line = line.decode(errors="replace").encode()
    except (ValueError, RecursionError):
        return None, ()
    try:
        return json.loads(line), notes
    except (ValueError, RecursionError):
        return None, ()


def _read_row_groups(config: CorpusConfig, piece: Piece) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    with _named(piece, pyarrow.ArrowException, OSError):
        file = parquet.ParquetFile(piece.path, pre_buffer=False, buffer_size=MIB)
        groups = range(piece.start, piece.stop)
        batches = file.iter_batches(256, row_groups=groups, columns=[config.text_column])
        for batch in batches:
            column = batch.column(0)
            large = pyarrow.types.is_large_string(column.type)
            if not (large or pyarrow.types.is_string(column.type)):
                raise DataError(
                    f"column {config.text_column!r} of {piece.path} is {column.type}, not text",
                    ("text_column",),
                )
            # As bytes: invalid UTF-8 is then ours to count, not an exception inside the library.
            for value in column.cast(pyarrow.large_binary() if large else pyarrow.binary()):
                yield from _texts(value.as_py(), config, piece)


def _read_hub(config: CorpusConfig, piece: Piece) -> Iterator[Row]:
    for text in hub_texts(config, piece):
        yield from _texts(text, config, piece)


def _texts(
    text: bytes | str | None, config: CorpusConfig, piece: Piece, notes: tuple[str, ...] = ()
) -> Iterator[Row]:
    """A document in memory, split if it is too long."""
    if text is None:
        yield Row(text=None, notes=("malformed",), origin=piece.path)
    elif len(text) * (1 if isinstance(text, bytes) else 4) <= config.split_bytes:
        yield Row(text=text, notes=notes, origin=piece.path)
    else:
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        yield from _parts(io.BytesIO(data), config, piece, notes)


def _parts(
    file: IO[bytes], config: CorpusConfig, piece: Piece, notes: tuple[str, ...] = ()
) -> Iterator[Row]:
    for number, part in enumerate(split(file, config.split_bytes)):
        yield Row(text=part, notes=(*notes, "split") if number == 1 else notes, origin=piece.path)
        notes = ()


Reader = Callable[[CorpusConfig, Piece], Iterator[Row]]
_READERS: dict[str, Reader] = {
    "code": _read_file,
    "text": _read_file,
    "jsonl": _read_lines,
    "parquet": _read_row_groups,
    "hub": _read_hub,
}
