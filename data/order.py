"""The order of samples: a seeded permutation that is computed, never stored."""

from dataclasses import dataclass
from math import isqrt

import numpy as np
import numpy.typing as npt

from data.files import sha256

Indices = npt.NDArray[np.int64]
ROUNDS = 6
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, splitmix64's own step between keys


def key_of(*parts: str | int) -> int:
    """64 bits that depend on every part."""
    return int(sha256(*map(str, parts))[:16], 16)


def mix(x: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each element: the finalizer of splitmix64 (Steele et al. 2014)."""
    x = x + np.uint64(key % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Permutation:
    """A pseudo-random bijection of range(size) in O(1) memory.

    A generalised Feistel network over Z_a x Z_b (Black and Rogaway 2002) with a ~ b ~ sqrt(size),
    so that a * b exceeds size by less than sqrt(size) + 1; the few images beyond it walk on
    along their cycle until they fall inside, which keeps the map one to one.
    """

    size: int
    key: int

    def __call__(self, indices: Indices) -> Indices:
        """Images of `indices`, which must lie in [0, size)."""
        images = self._network(indices)
        outside = np.flatnonzero(images >= self.size)
        while outside.size:
            images[outside] = self._network(images[outside])
            outside = outside[images[outside] >= self.size]
        return images

    def _network(self, indices: Indices) -> Indices:
        b = isqrt(max(self.size - 1, 0)) + 1
        a = -(-self.size // b)
        left, right = (half.astype(np.uint64) for half in np.divmod(indices, b))
        for number in range(0, ROUNDS, 2):
            left = (left + mix(right, self.key + number * GOLDEN) % a) % a
            right = (right + mix(left, self.key + (number + 1) * GOLDEN) % b) % b
        return (left * np.uint64(b) + right).astype(np.int64)


@dataclass(frozen=True)
class Order:
    """Which of `size` samples comes at each position; every epoch is a permutation of its own."""

    size: int
    seed: int
    fingerprint: str

    def __call__(self, positions: Indices) -> Indices:
        """Sample numbers at these positions (position = number of samples before, epochs
        included)."""
        epochs, within = np.divmod(positions, self.size)
        out = np.empty_like(within)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            key = key_of("order", self.seed, self.fingerprint, epoch)
            out[chosen] = Permutation(self.size, key)(within[chosen])
        return out
