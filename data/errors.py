"""The one exception that a user's mistake, or a damaged file, raises here."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

Key = tuple[str | int, ...]


class DataError(ValueError):
    """One sentence for the user; `key` is the path of the config key at fault, if one is."""

    def __init__(self, message: str, key: Key | None = None) -> None:
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[type["DataError"], tuple[str, Key | None]]:
        return type(self), (str(self), self.key)  # Ray carries errors by pickle


@contextmanager
def under(*prefix: str | int) -> Iterator[None]:
    """What the block reads is configured under these keys: faults are named from there."""
    try:
        yield
    except DataError as error:
        error.key = (*prefix, *(error.key or ()))
        raise


class DiskFullError(DataError):
    """A write for which there was no space left."""


def missing_column(where: str, column: str, known: Iterable[str]) -> DataError:
    names = list(known)
    return DataError(
        f"{where} has no column {column!r}{nearest(column, names)}: it has {', '.join(names)}",
        ("text_column",),
    )


def nearest(given: str, known: Iterable[str]) -> str:
    """A clause `, did you mean 'x'?` for the nearest known name, or nothing."""
    match = difflib.get_close_matches(given, list(known), n=1)
    return f", did you mean {match[0]!r}?" if match else ""
