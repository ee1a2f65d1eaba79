"""Documents to tokens, in batches that bound memory and keep every core busy."""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from data.documents import Placed
from data.megatron import Tokens
from data.words import Encoder

BATCH_CHARS = 1 << 19  # the library needs about 100 bytes of memory for each token in a batch
BATCH_PARTS = 1024
PLACE = re.compile(r"(?<=\S) |(?<=[^\W_])\n")  # where a text may be cut
NEARBY = 1 << 12
AHEAD = 2  # batches that are encoded while the one before them is written


class Part(NamedTuple):
    document: Placed
    text: str
    last: bool


def encode(encoder: Encoder, placed: Iterable[Placed]) -> Iterator[tuple[Placed, Tokens]]:
    """Yield each document with its tokens, the end of document included, in order."""
    end = np.array([encoder.tokenizer.end_of_document], encoder.dtype)
    arrays: list[Tokens] = []
    for part, tokens in _encoded(encoder, _batches(_parts(placed))):
        arrays.append(tokens)
        if part.last:
            yield part.document, np.concatenate([*arrays, end])
            arrays = []


def _encoded(encoder: Encoder, batches: Iterable[list[Part]]) -> Iterator[tuple[Part, Tokens]]:
    """Pair each part with its tokens. The library encodes outside of Python's lock, so reading
    and writing go on meanwhile."""

    def work(batch: list[Part]) -> list[Tokens]:
        return encoder([part.text for part in batch])

    running: deque[tuple[list[Part], Future[list[Tokens]]]] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        for batch in batches:
            running.append((batch, pool.submit(work, batch)))
            if len(running) > AHEAD:
                done, future = running.popleft()
                yield from zip(done, future.result(), strict=True)
        for done, future in running:
            yield from zip(done, future.result(), strict=True)


def _parts(placed: Iterable[Placed]) -> Iterator[Part]:
    for document in placed:
        *texts, last = cut(document.document.text, BATCH_CHARS)
        for text in texts:
            yield Part(document, text, False)
        yield Part(document, last, True)


def _batches(parts: Iterable[Part]) -> Iterator[list[Part]]:
    batch: list[Part] = []
    chars = 0
    for part in parts:
        batch.append(part)
        chars += len(part.text)
        if chars >= BATCH_CHARS or len(batch) >= BATCH_PARTS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def cut(text: str, size: int) -> Iterator[str]:
    """Yield a long text in parts of at most `size` characters.

    Cut before a space that follows a word or a mark, or a newline that follows a word: byte-level
    pre-tokenizers always part there, so the tokens are those of the whole text. Only a run of
    `size` characters without such a place is cut inside, and tokenizers without pre-tokenization
    may differ at a cut.
    """
    start = 0
    while len(text) - start > size:
        end = _place(text, start + 1, start + size) or start + size
        yield text[start:end]
        start = end
    yield text[start:]


def _place(text: str, low: int, high: int) -> int | None:
    """The last place to cut in [low, high]."""
    for nearest in (max(low, high - NEARBY), low):
        if places := [match.start() for match in PLACE.finditer(text, nearest, high + 1)]:
            return places[-1]
    return None
