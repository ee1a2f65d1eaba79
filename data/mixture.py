"""Weighted mixtures of token stores: which source each sample comes from, computed from its
number."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.files import sha256, write_atomic
from data.order import Indices
from data.store import TokenStore

FILE = "mixture.json"
UNIT = 20  # shares are multiples of 2**-20


@dataclass(frozen=True)
class Part:
    """A store's share of the samples, by weight. With `max_epochs` it is used up after so many
    passes, and the others share its place."""

    name: str
    store: TokenStore
    weight: float = 1.0
    max_epochs: float | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise DataError(f"the weight of {self.name} is {self.weight}, not above 0", ("weight",))
        if self.max_epochs is not None and not self.max_epochs > 0:
            raise DataError(f"max_epochs of {self.name} is {self.max_epochs}, not above 0")


@dataclass(frozen=True)
class Mixture:
    """Parts of one vocabulary; a single store is a mixture of one part."""

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        kinds = {(part.store.vocab_size, part.store.end_of_document) for part in self.parts}
        if len(kinds) != 1:
            names = ", ".join(f"{part.name} ({part.store.vocab_size})" for part in self.parts)
            raise DataError(f"the parts of a mixture need one vocabulary, these differ: {names}")

    @classmethod
    def open(cls, folder: Path | str) -> "Mixture":
        """What `save` wrote to this folder, or the token store that is there."""
        path = Path(folder) / FILE
        if not path.exists():
            return cls((Part("all", TokenStore.open(folder)),))
        parts = json.loads(path.read_bytes())
        return cls(
            tuple(Part(**{**part, "store": TokenStore.open(part["store"])}) for part in parts)
        )

    def save(self, folder: Path) -> None:
        """Only the stores' places are written: they stay where they are."""
        parts = [
            {
                "name": part.name,
                "store": str(part.store.folder),
                "weight": part.weight,
                "max_epochs": part.max_epochs,
            }
            for part in self.parts
        ]
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / FILE, json.dumps(parts, indent=1).encode())

    @property
    def fingerprint(self) -> str:
        """Of the tokens and of how they are mixed; that of the store where there is but one."""
        first = self.parts[0]
        if len(self.parts) == 1 and first.max_epochs is None:
            return first.store.fingerprint
        identity = [[p.store.fingerprint, p.weight, p.max_epochs] for p in self.parts]
        return sha256("mixture", json.dumps(identity))

    @property
    def vocab_size(self) -> int:
        """That of every part."""
        return self.parts[0].store.vocab_size

    @property
    def end_of_document(self) -> int:
        """That of every part."""
        return self.parts[0].store.end_of_document

    @property
    def shares(self) -> list[float]:
        """The parts' weights, summing to 1."""
        total = sum(part.weight for part in self.parts)
        return [part.weight / total for part in self.parts]

    @property
    def unique_tokens(self) -> int:
        """Tokens that can be drawn before any part begins again."""
        drawn = zip(self.parts, self.shares, strict=True)
        return int(min(part.store.n_tokens / share for part, share in drawn))


@dataclass(frozen=True)
class _Phase:
    """Samples from `start` on, while the same sources are left. `shares[i]` is the share of source
    `sources[i]` in what the ones before it leave; `used` counts earlier samples of every source."""

    start: int
    sources: tuple[int, ...]
    shares: tuple[int, ...]
    used: tuple[int, ...]

    def counts(self, number: int) -> list[int]:
        """Samples of each source among the first `number` of this phase."""
        counts = [0] * len(self.used)
        for source, share in zip(self.sources, self.shares, strict=True):
            counts[source] = (number * share) >> UNIT
            number -= counts[source]
        return counts


class Blend:
    """The interleaving of sources. Each one's count stays within a few samples of its weight's
    share at every point, so that any stretch of training sees the mixture, and nothing is stored.

    Of n samples, the first source has floor(n w_1), the second has floor(n' w_2) of the n' that are
    left, and so on; sample n belongs to the source whose count it raises.
    """

    def __init__(self, weights: Sequence[float], limits: Sequence[int | None]) -> None:
        self._phases = [_phase(0, weights, limits, (0,) * len(weights))]
        self.total: int | None = None if self._phases[0].sources else 0
        while self.total is None and any(limits[source] for source in self._phases[-1].sources):
            last = self._phases[-1]
            end = _first_exhausted(last, limits)
            used = tuple(a + b for a, b in zip(last.used, last.counts(end), strict=True))
            if all(limit is not None and limit <= u for limit, u in zip(limits, used, strict=True)):
                self.total = last.start + end
            else:
                self._phases.append(_phase(last.start + end, weights, limits, used))
        self._starts = np.array([phase.start for phase in self._phases])

    def counts(self, position: int) -> list[int]:
        """How many of the first `position` samples come from each source."""
        phase = self._phases[int(np.searchsorted(self._starts, position, side="right")) - 1]
        added = phase.counts(position - phase.start)
        return [before + now for before, now in zip(phase.used, added, strict=True)]

    def locate(self, positions: Indices) -> tuple[Indices, Indices]:
        """The source of each sample, and its number among that source's samples."""
        if self.total is not None and positions.size and int(positions.max()) >= self.total:
            raise DataError(
                f"every source of the mixture reaches its max_epochs after {self.total} samples",
                ("max_epochs",),
            )
        sources = np.empty_like(positions)
        numbers = np.empty_like(positions)
        phases = np.searchsorted(self._starts, positions, side="right") - 1
        for index in np.unique(phases).tolist():
            phase, chosen = self._phases[index], np.flatnonzero(phases == index)
            rest = positions[chosen] - phase.start
            for source, share in zip(phase.sources, phase.shares, strict=True):
                before, after = (rest * share) >> UNIT, ((rest + 1) * share) >> UNIT
                own = after > before
                sources[chosen[own]] = source
                numbers[chosen[own]] = phase.used[source] + before[own]
                chosen, rest = chosen[~own], (rest - before)[~own]
        return sources, numbers


def _phase(
    start: int, weights: Sequence[float], limits: Sequence[int | None], used: tuple[int, ...]
) -> _Phase:
    left = [source for source, limit in enumerate(limits) if limit is None or used[source] < limit]
    shares = []
    for number, source in enumerate(left):
        rest = sum(weights[other] for other in left[number:])
        most = (1 << UNIT) - (source != left[-1])  # something is left for every source
        shares.append(min(max(1, round(weights[source] / rest * (1 << UNIT))), most))
    return _Phase(start, tuple(left), tuple(shares), used)


def _first_exhausted(phase: _Phase, limits: Sequence[int | None]) -> int:
    """The number of samples of this phase after which some source has reached its limit."""
    ends = []
    for source in phase.sources:
        limit = limits[source]
        if limit is not None:
            low, high = 0, 1
            while phase.counts(high)[source] < limit - phase.used[source]:
                high *= 2
            while low < high:
                middle = (low + high) // 2
                if phase.counts(middle)[source] < limit - phase.used[source]:
                    low = middle + 1
                else:
                    high = middle
            ends.append(low)
    return min(ends)
