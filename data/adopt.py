"""Megatron datasets made elsewhere (Megatron-LM, GPT-NeoX, NeMo), as a token store."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.files import file_sha256, make_folder
from data.megatron import Index, memory_map
from data.store import Shard, TokenStore


def adopt(
    prefixes: Sequence[Path],
    folder: Path,
    vocab_size: int,
    end_of_document: int,
    text_bytes: int = 0,
) -> TokenStore:
    """Make a store in `folder` of the datasets `<prefix>.bin` and `.idx`, by links, not copies.

    `text_bytes` is the UTF-8 size of the text they stand for, which the files do not say; bits per
    byte need it. Raises `DataError` over tokens beyond the vocabulary, and over a document that
    does not end with `end_of_document`.
    """
    make_folder(folder)
    shards, dtypes = [], set()
    for number, prefix in enumerate(prefixes):
        index = Index.open(Path(f"{prefix}.idx"))
        _check(prefix, index, vocab_size, end_of_document)
        shards.append(_link(prefix, index, folder, f"{number:05d}", 0 if number else text_bytes))
        dtypes.add(index.dtype)
    if len(dtypes) != 1:
        raise DataError(f"the datasets of a store need one token type, these have {len(dtypes)}")
    store = TokenStore.of(folder, tuple(shards), vocab_size, end_of_document, dtypes.pop())
    store.save()
    return store


def _check(prefix: Path, index: Index, vocab_size: int, end_of_document: int) -> None:
    tokens = memory_map(Path(f"{prefix}.bin"), index.dtype)
    sequence_ends = np.cumsum(index.lengths, dtype=np.int64)
    last = tokens[sequence_ends[index.documents[1:] - 1] - 1]
    if (last != end_of_document).any():
        raise DataError(f"a document of {prefix} does not end with token {end_of_document}")
    if len(tokens) and int(tokens.max()) >= vocab_size:
        raise DataError(f"{prefix} has tokens beyond a vocabulary of {vocab_size}")


def _link(prefix: Path, index: Index, folder: Path, name: str, text_bytes: int) -> Shard:
    links = [folder / f"{name}.{suffix}" for suffix in ("bin", "idx")]
    for link in links:
        link.unlink(missing_ok=True)
        link.symlink_to(Path(f"{prefix}{link.suffix}").absolute())
    tokens, sizes = int(index.lengths.sum()), [link.stat().st_size for link in links]
    hashes = [file_sha256(link) for link in links]
    documents = len(index.documents) - 1
    return Shard(name, tokens, documents, text_bytes, sizes[0], hashes[0], sizes[1], hashes[1])
