"""Documents as sets of word n-grams, each a 64-bit hash, and their MinHashes."""

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from data.documents import Placed
from data.order import mix

PERMUTATIONS = 128
BLOCK = 4096  # shingles at a time: bounds a giant document's memory
WORD = re.compile(r"\w+")
Hashes = npt.NDArray[np.uint64]
Signature = npt.NDArray[np.unsignedinteger[Any]]


def word_hashes(document: Placed) -> Hashes:
    """A hash of each word, case apart; a text without words counts as one word of its own."""
    words = WORD.findall(document.document.text.lower())
    if not words:
        return np.frombuffer(document.digest[:8], np.uint64)
    return np.fromiter(map(_word, words), np.uint64, len(words))


@lru_cache(maxsize=1 << 18)
def _word(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


def ngrams(words: Hashes, n: int) -> Hashes:
    """A hash of each n successive words, or of all where there are fewer."""
    n = min(n, len(words))
    count = len(words) - n + 1
    key = np.zeros(count, np.uint64)
    for offset in range(n):
        key = mix(key ^ words[offset : offset + count], offset + 1)
    return key


def signature(shingles: Hashes) -> Signature:
    """The MinHash of a set of shingles (Broder 1997), by `datasketch`."""
    minhash = _empty().copy()
    for start in range(0, len(shingles), BLOCK):
        # datasketch permutes 32-bit hashes.
        minhash.update_batch((shingles[start : start + BLOCK] >> np.uint64(32)).tolist())
    hashes: Signature = minhash.hashvalues
    return hashes


@lru_cache(maxsize=1)
def _empty() -> Any:
    from datasketch import MinHash

    return MinHash(PERMUTATIONS, hashfunc=int)
