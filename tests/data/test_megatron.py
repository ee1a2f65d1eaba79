"""Our token files are Megatron-LM's: each side reads what the other writes, byte for byte."""

import random
from pathlib import Path

import numpy as np
import pytest

from data.adopt import adopt
from data.errors import DataError
from data.megatron import Writer, token_type
from data.prepare import Prepared
from data.store import TokenStore

megatron = pytest.importorskip(
    "megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed"
)


def documents(vocab_size: int) -> list[list[int]]:
    chooser = random.Random(0)
    return [
        [chooser.randrange(vocab_size) for _ in range(chooser.randrange(1, 50))] for _ in range(40)
    ]


@pytest.mark.parametrize("vocab_size", [300, 65_499, 65_500, 200_000])
def test_both_write_the_same_bytes(vocab_size: int, tmp_path: Path) -> None:
    import torch

    dtype = token_type(vocab_size)
    assert megatron.DType.optimal_dtype(vocab_size) == dtype.type
    theirs = megatron.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype.type)
    ours = Writer(dtype)
    with (tmp_path / "ours.bin").open("wb") as file:
        for document in documents(vocab_size):
            theirs.add_document(torch.tensor(document), [len(document)])
            ours.add(file, np.array(document))
    theirs.finalize(str(tmp_path / "theirs.idx"))
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()
    assert ours.index() == (tmp_path / "theirs.idx").read_bytes()


def test_megatron_reads_a_store(prepared: Prepared) -> None:
    store = TokenStore.open(prepared.train)
    for number, shard in enumerate(store.shards):
        theirs = megatron.IndexedDataset(str(prepared.train / shard.name))
        assert len(theirs) == shard.documents
        assert np.array_equal(theirs.sequence_lengths, store.index(number).lengths)
        whole = np.concatenate([theirs[n] for n in range(len(theirs))])
        start = sum(earlier.tokens for earlier in store.shards[:number])
        assert np.array_equal(whole, store.window(start, shard.tokens))


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.int64])
def test_foreign_datasets_become_a_store(tmp_path: Path, dtype: type) -> None:
    import torch

    prefixes = [tmp_path / "one", tmp_path / "two"]
    for prefix, part in zip(prefixes, (documents(300)[:15], documents(300)[15:]), strict=True):
        builder = megatron.IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
        for document in part:
            builder.add_document(torch.tensor([*document, 0]), [len(document) + 1])
        builder.finalize(f"{prefix}.idx")
    store = adopt(prefixes, tmp_path / "store", vocab_size=300, end_of_document=0)
    expected = [token for document in documents(300) for token in [*document, 0]]
    assert store.n_documents == 40
    assert store.window(0, store.n_tokens).tolist() == expected
    assert TokenStore.open(tmp_path / "store") == store
    store.verify()
    with pytest.raises(DataError, match="does not end with token 1"):
        adopt(prefixes, tmp_path / "store", vocab_size=300, end_of_document=1)
    with pytest.raises(DataError, match="beyond a vocabulary of 20"):
        adopt(prefixes, tmp_path / "store", vocab_size=20, end_of_document=0)
