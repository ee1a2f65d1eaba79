r"""Texts to tokens, each different word once.

A tokenizer with a pre-tokenizer makes of each word what it makes of it anywhere, and natural text
repeats its words. So a text is cut into words here, and the library is asked for those alone that
are not remembered.

The cuts are places where the tokenizer's own pattern always parts. The pattern is translated to
Python's `re` with explicit classes: letters (L), digits (N) and others (O), which are asked of the
library for each character below U+3000, white space of ASCII (S), and U, all that is left and may
be anything. A match that ends before U, or before white space that ends before U, may have ended
elsewhere in the library, so whatever touches U is one chunk: it ends where a space follows a
character that is no white space and not U, which no alternative spans.
"""

import json
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from data.megatron import Tokens, token_type
from data.tokenizer import Tokenizer

MEMORY_BYTES = 64 << 20  # of remembered words; then all are forgotten and the usual ones come again
WORD_BYTES = 160  # of a word and its tokens in a dict, before its characters
CLASSES = {"L": "a-zA-Z", "N": "0-9", "O": r"\x00-\x08\x0e-\x1f!-/:-@\[-`{-\x7f"}
SPACE = r"\t-\r "
KNOWN_BELOW = 0x3000
LONG_S = 0x17F  # matches an s where a pattern disregards case

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = (GPT2, LLAMA3, LLAMA3.replace("{1,3}", ""))  # the last one is Qwen2's

Cut = Callable[[str], list[str]]


class Encoder:
    """What `tokenizer.encode` gives for each text, as arrays of the type that stores have.

    Tokenizers that normalize text, read added tokens out of it, or part it by another pattern are
    asked for whole texts.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.dtype = token_type(tokenizer.vocab_size)
        self.cut = cutter(tokenizer.inner)
        self._known: dict[str, bytes] = {}
        self.remembered = 0

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        if self.cut is None:
            parts = self._library(texts)
        else:
            cut = list(map(self.cut, texts))
            known = self._remember(set().union(*cut))
            parts = [b"".join(map(known.__getitem__, words)) for words in cut]
        return [np.frombuffer(part, self.dtype) for part in parts]

    def _remember(self, words: set[str]) -> dict[str, bytes]:
        """Tokens of these words at least."""
        if self.remembered > MEMORY_BYTES:  # another thread may still read what is left behind
            self._known, self.remembered = {}, 0
        known = self._known
        new = list(words.difference(known))
        known.update(zip(new, self._library(new), strict=True))
        self.remembered += WORD_BYTES * len(new) + 8 * sum(map(len, new))
        return known

    def _library(self, texts: Sequence[str]) -> list[bytes]:
        encodings = self.tokenizer.inner.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, self.dtype).tobytes() for encoding in encodings]


def cutter(inner: Any) -> Cut | None:
    """A function that cuts a text into words whose tokens, joined, are those of the text; None for
    a tokenizer of which that is not known."""
    config = json.loads(inner.to_str())
    pattern = _pattern(config["pre_tokenizer"])
    plain = config["normalizer"] is None and all(t["special"] for t in config["added_tokens"])
    if pattern not in PATTERNS or not plain:
        return None
    classes = {
        name: members + _ranges(_alike(inner.pre_tokenizer, sample))
        for (name, members), sample in zip(CLASSES.items(), "a1!", strict=True)
    }
    return re.compile(_translated(pattern, **classes), re.ASCII).findall


def _pattern(config: dict[str, Any] | None) -> str | None:
    """The pattern of a byte-level pre-tokenizer."""
    match config:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": str(pattern)},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    return None


def _translated(pattern: str, L: str, N: str, O: str) -> str:
    for theirs, ours in (
        (r"[^\s\p{L}\p{N}]", f"[{O}]"),
        (r"[^\r\n\p{L}\p{N}]", f"[{O}\t\v\f ]"),
        (r"\p{L}", f"[{L}]"),
        (r"\p{N}", f"[{N}]"),
        (r"\s", f"[{SPACE}]"),
        (r"\S", f"[^{SPACE}]"),
    ):
        pattern = pattern.replace(theirs, ours)
    words, spaces = pattern.split(f"|[{SPACE}]", 1)
    known = L + N + O
    other = f"[^{SPACE}{known}]"
    glued = f"[{SPACE}]*+[{known}]*+(?:(?:{other}|[\r\n])[{SPACE}]*+[{known}]*+)++"
    sure = f"(?>{words}|(?>[{SPACE}]{spaces})(?![{SPACE}]*+{other}))(?!{other})"
    return f"{sure}|{glued}"


def _alike(pre_tokenizer: Any, sample: str) -> list[int]:
    """Characters beyond ASCII between two samples of a class that are one word with them."""
    characters = [code for code in range(0x80, KNOWN_BELOW) if code != LONG_S]
    text = "".join(f" {sample}{chr(code)}{sample}" for code in characters)
    starts = {start for _, (start, _) in pre_tokenizer.pre_tokenize_str(text)}
    return [
        code
        for number, code in enumerate(characters)
        if starts.isdisjoint((4 * number + 2, 4 * number + 3))
    ]


def _ranges(codes: Collection[int]) -> str:
    members = set(codes)
    firsts = sorted(code for code in members if code - 1 not in members)
    lasts = sorted(code for code in members if code + 1 not in members)
    return "".join(
        f"\\u{first:04x}-\\u{last:04x}" for first, last in zip(firsts, lasts, strict=True)
    )
