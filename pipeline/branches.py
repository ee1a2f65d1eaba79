"""Runs that start from a checkpoint of another: they wait until it is there, or never will be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar


class Branch(Protocol):
    """What is to know of a run."""

    @property
    def start(self) -> Path | None:
        """The checkpoint of its trunk that it starts from."""

    @property
    def is_ready(self) -> bool:
        """Whether what it starts from is there."""


B = TypeVar("B", bound=Branch)


class Branches(Generic[B]):
    """Those that wait, by the folder of their trunk: only trunks that train need be looked at."""

    def __init__(self) -> None:
        self._of: dict[Path, list[B]] = defaultdict(list)

    def add(self, branch: B) -> None:
        """Wait for what it starts from."""
        self._of[trunk_of(branch)].append(branch)

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __iter__(self) -> Iterator[B]:
        for branches in self._of.values():
            yield from branches

    @property
    def trunks(self) -> set[Path]:
        """Folders of the runs that are waited for."""
        return set(self._of)

    def take_ready(self, trunks: Iterable[Path]) -> list[B]:
        """Remove and return those of ``trunks`` that may start."""
        found: list[B] = []
        for trunk in self._of.keys() & set(trunks):
            found += [branch for branch in self._of[trunk] if branch.is_ready]
            if left := [branch for branch in self._of[trunk] if branch not in found]:
                self._of[trunk] = left
            else:
                del self._of[trunk]
        return found

    def take(self, trunk: Path) -> list[B]:
        """Remove and return all of a trunk that is over."""
        return self._of.pop(trunk, [])


def trunk_of(branch: Branch) -> Path:
    """The folder of the run that it starts from."""
    assert branch.start is not None
    return branch.start.parent.parent
