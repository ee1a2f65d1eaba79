import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.loader import Loader
from data.packing import PackedStore, pack
from data.prepare import Prepared
from data.store import TokenStore


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200))
def test_every_item_is_in_one_bin_and_no_bin_overflows(lengths: list[int]) -> None:
    items = np.array(lengths)
    bins = pack(items, 50)
    fill = np.bincount(bins, weights=items)
    assert (fill > 0).all()
    assert (fill <= 50).all()
    # Best-fit decreasing uses at most 11/9 of the best number of bins, and 6/9 (Dosa 2007).
    assert len(fill) <= 11 / 9 * np.ceil(items.sum() / 50) * 2 + 1


def test_packing_is_tight_for_many_short_documents() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 5000)
    assert len(np.unique(pack(lengths, 1024))) <= np.ceil(lengths.sum() / 1024) * 1.001 + 1


@pytest.fixture(scope="module")
def store(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("packed") / "train"
    shutil.copytree(prepared.train, folder)
    return TokenStore.open(folder)


@pytest.mark.parametrize("length", [64, 200, 5000])
def test_every_token_is_a_target_once_from_its_own_document(store: TokenStore, length: int) -> None:
    packed = PackedStore(store, length)
    batch = packed.read(np.arange(packed.n_sequences))
    assert batch.segments_BT is not None
    assert batch.positions_BT is not None
    counted = batch.weights_BT > 0
    assert np.array_equal(
        np.sort(batch.targets_BT[counted]), np.sort(store.window(0, store.n_tokens))
    )
    follows = batch.positions_BT[:, 1:] > 0
    assert np.array_equal(batch.tokens_BT[:, 1:][follows], batch.targets_BT[:, :-1][follows])
    same = batch.segments_BT[:, 1:] == batch.segments_BT[:, :-1]
    assert np.array_equal(same, follows)


def test_no_document_that_fits_is_cut(store: TokenStore) -> None:
    packed = PackedStore(store, 400)
    batch = packed.read(np.arange(packed.n_sequences))
    lengths = np.concatenate([store.index(n).lengths for n in range(len(store.shards))])
    begins = (batch.positions_BT == 0) & (batch.weights_BT > 0)
    whole = begins & (batch.tokens_BT == store.end_of_document)
    assert whole.sum() == len(lengths)
    assert begins.sum() == (-(-lengths // 400)).sum()


def test_the_loader_packs(store: TokenStore) -> None:
    loader = Loader(store, 400, 4, seed=0, packing="best-fit")
    seen = [loader.batch(step).weights_BT.sum() for step in range(-(-loader.n_samples // 4))]
    assert sum(seen) >= store.n_tokens
    assert loader.exposures(1)[0].epochs == pytest.approx(4 / loader.n_samples)
    assert (store.folder / "packed-400" / "ends").exists()
    with pytest.raises(DataError, match="best-fit packing has no order_length"):
        Loader(store, 400, 4, seed=0, packing="best-fit", order_length=800)


def test_an_interrupted_index_is_made_again(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store.folder, tmp_path / "s", ignore=shutil.ignore_patterns("packed-*"))
    copy = TokenStore.open(tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr("data.packing.pack", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            PackedStore(copy, 64)
    assert PackedStore(copy, 64).n_sequences == PackedStore(store, 64).n_sequences
