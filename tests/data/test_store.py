import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.files import atomic, file_sha256, write_atomic
from data.megatron import Index, Writer, token_type
from data.store import Shard, TokenStore


def make_store(folder: Path, lengths: list[list[int]], vocab_size: int = 300) -> TokenStore:
    """Shards of documents of these lengths, whose tokens count up through the store."""
    dtype = token_type(vocab_size)
    shards, count = [], 0
    folder.mkdir(exist_ok=True)
    for number, documents in enumerate(lengths):
        writer = Writer(dtype)
        name = f"{number:05d}"
        with atomic(folder / f"{name}.bin") as file:
            for length in documents:
                writer.add(file, (np.arange(count, count + length) % vocab_size).astype(dtype))
                count += length
        write_atomic(folder / f"{name}.idx", writer.index())
        paths = [folder / f"{name}.bin", folder / f"{name}.idx"]
        (bin_bytes, bin_hash), (idx_bytes, idx_hash) = (
            (path.stat().st_size, file_sha256(path)) for path in paths
        )
        tokens = sum(documents)
        shards.append(
            Shard(name, tokens, len(documents), tokens, bin_bytes, bin_hash, idx_bytes, idx_hash)
        )
    TokenStore.of(folder, tuple(shards), vocab_size, 0, dtype).save()
    return TokenStore.open(folder)


LENGTHS = [[5, 3], [], [1], [7, 2, 4]]


@pytest.mark.parametrize("vocab_size", [300, 100_000])
def test_windows_read_shards_as_one_stream(tmp_path: Path, vocab_size: int) -> None:
    store = make_store(tmp_path / "s", LENGTHS, vocab_size)
    assert (store.n_tokens, store.n_documents) == (22, 6)
    whole = np.arange(22)
    for start in range(23):
        for length in range(23 - start):
            assert np.array_equal(store.window(start, length), whole[start : start + length])
    starts = np.array([0, 6, 8, 9, 15])
    assert np.array_equal(store.gather(starts, 6), starts[:, None] + np.arange(6))
    with pytest.raises(IndexError):
        store.window(20, 3)


def test_a_shard_that_is_cut_short_while_it_is_read_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", LENGTHS)
    store.window(0, 22)
    os.truncate(store.folder / "00000.bin", 8)
    with pytest.raises(DataError, match=r"00000\.bin ends after 8 bytes instead of 16"):
        store.window(2, 10)


def test_no_more_files_stay_open_than_the_process_can_spare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (20, 20))
    store = make_store(tmp_path / "s", [[3]] * 30)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for start in (*range(90), *range(90)):
        assert store.window(start, 1) == start
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 5
    del store
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_store_that_was_read_can_be_sent_to_another_process(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", LENGTHS)
    store.window(0, 22)
    assert np.array_equal(pickle.loads(pickle.dumps(store)).window(0, 22), np.arange(22))


def test_16_bits_hold_small_vocabularies_and_32_the_others(tmp_path: Path) -> None:
    assert make_store(tmp_path / "a", LENGTHS, 65_499).dtype == np.uint16
    assert make_store(tmp_path / "b", LENGTHS, 65_500).dtype == np.int32


def test_index_gives_each_document(tmp_path: Path) -> None:
    index = make_store(tmp_path / "s", LENGTHS).index(3)
    assert index.lengths.tolist() == [7, 2, 4]
    assert index.pointers.tolist() == [0, 14, 18]
    assert index.documents.tolist() == [0, 1, 2, 3]


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    a, b = make_store(tmp_path / "a", LENGTHS), make_store(tmp_path / "b", LENGTHS)
    other = make_store(tmp_path / "c", [[5, 3], [], [1], [7, 2, 5]])
    assert a.fingerprint == b.fingerprint != other.fingerprint


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_a_flipped_bit_is_found_and_the_file_named(tmp_path: Path, suffix: str) -> None:
    store = make_store(tmp_path / "s", LENGTHS)
    store.verify()
    path = store.folder / f"00003.{suffix}"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"00003\.{suffix} was altered"):
        TokenStore.open(store.folder).verify()


def test_truncated_or_missing_shards_are_named_at_opening(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", LENGTHS)
    path = store.folder / "00003.bin"
    path.write_bytes(path.read_bytes()[:-2])
    (store.folder / "00000.idx").unlink()
    with pytest.raises(
        DataError, match=r"00000\.idx is missing; .*00003\.bin has 24 bytes instead"
    ):
        TokenStore.open(store.folder)


def test_no_store_and_a_damaged_manifest_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no token store at"):
        TokenStore.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        TokenStore.open(tmp_path)


def test_foreign_and_cut_indices_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.idx"
    path.write_bytes(b"short")
    with pytest.raises(DataError, match="cut short"):
        Index.open(path)
    path.write_bytes(b"x" * 34)
    with pytest.raises(DataError, match="no Megatron index"):
        Index.open(path)
    whole = make_store(tmp_path / "s", LENGTHS).folder / "00000.idx"
    path.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(DataError, match="damaged"):
        Index.open(path)


def test_stores_of_a_later_format_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", LENGTHS)
    manifest = store.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match="has format 2"):
        TokenStore.open(store.folder)


def test_an_opened_store_is_the_saved_one(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", LENGTHS)
    assert dataclasses.asdict(TokenStore.open(store.folder)) == dataclasses.asdict(store)
