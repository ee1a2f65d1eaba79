"""What a checkpoint's safetensors files hold of named parameters: no pickle is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from launch.manifest import DamagedCheckpointError
from launch.zero_state import Fragment

RNG, BUFFER = "rng", "buffer"
"""Keys in a file are `<kind>:<start>:<name>`; besides a fragment's own kinds there are these."""


class Pieces:
    """The intervals that a checkpoint's files hold, by kind and parameter."""

    def __init__(self, paths: list[Path]) -> None:
        self._files: list[Any] = [safe_open(path, framework="pt") for path in paths]
        self._index: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        for number, file in enumerate(self._files):
            for key in file.keys():  # noqa: SIM118 (not a dict)
                kind, start, name = key.split(":", 2)
                self._index.setdefault((kind, name), []).append((int(start), number, key))

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self._index}

    def names(self, kind: str) -> list[str]:
        return [name for of, name in self._index if of == kind]

    def read(self, kind: str, name: str) -> Tensor:
        """All of it, in one file."""
        [(_, number, key)] = self._index[kind, name]
        tensor: Tensor = self._files[number].get_tensor(key)
        return tensor

    def fill(self, fragment: Fragment) -> None:
        for kind, target in fragment.tensors.items():
            filled = sum(self._copy(kind, fragment, target))
            if filled != target.numel():
                raise DamagedCheckpointError(
                    f"{kind} of {fragment.name}: {filled} of {target.numel()} elements are there"
                )

    def _copy(self, kind: str, fragment: Fragment, target: Tensor) -> Iterator[int]:
        for start, number, key in self._index.get((kind, fragment.name), []):
            piece = self._files[number].get_slice(key)
            low = max(start, fragment.start)
            high = min(start + piece.get_shape()[0], fragment.start + target.numel())
            if low < high:
                target[low - fragment.start : high - fragment.start] = piece[
                    low - start : high - start
                ]
                yield high - low
