from itertools import pairwise

import numpy as np
import pytest

from data.batch import Batch
from data.errors import DataError
from data.loader import Loader
from data.prepare import Prepared
from data.store import TokenStore


@pytest.fixture(scope="module")
def store(prepared: Prepared) -> TokenStore:
    return TokenStore.open(prepared.train)


def rows(batches: list[Batch]) -> np.ndarray:
    return np.concatenate([batch.tokens_BT for batch in batches])


@pytest.mark.parametrize("world", [2, 3, 5, 13])
def test_samples_do_not_depend_on_the_number_of_ranks(store: TokenStore, world: int) -> None:
    loader = Loader(store, sequence_length=16, batch_size=12, seed=7)
    for step in (0, 1, 50, 10**6):
        alone = loader.batch(step)
        together = [loader.batch(step, rank, world) for rank in range(world)]
        assert np.array_equal(rows(together), alone.tokens_BT)


def test_a_batch_is_a_function_of_its_step(store: TokenStore) -> None:
    first, later = (Loader(store, 16, 8, seed=7) for _ in range(2))
    later.batch(40)
    for step in (3, 0, 3):
        assert np.array_equal(first.batch(step).tokens_BT, later.batch(step).tokens_BT)
    other = Loader(store, 16, 8, seed=8)
    assert not np.array_equal(first.batch(3).tokens_BT, other.batch(3).tokens_BT)


def test_targets_are_the_next_tokens_and_an_epoch_is_the_whole_store(store: TokenStore) -> None:
    loader = Loader(store, sequence_length=32, batch_size=1, seed=0)
    batches = [loader.batch(step) for step in range(loader.n_samples)]
    assert all(np.array_equal(b.tokens_BT[:, 1:], b.targets_BT[:, :-1]) for b in batches)
    seen = sorted(tuple(batch.targets_BT[0].tolist()) for batch in batches)
    stream = store.window(1, loader.n_samples * 32).reshape(-1, 32)
    assert seen == sorted(tuple(row.tolist()) for row in stream)


def test_epochs_and_unique_tokens_are_counted(store: TokenStore) -> None:
    loader = Loader(store, sequence_length=32, batch_size=4, seed=0)
    assert loader.epochs(0) == 0
    steps = loader.n_samples // 4
    assert loader.epochs(2 * steps) == pytest.approx(2, rel=4 / loader.n_samples)
    assert loader.unique_tokens(1) == 128
    assert loader.unique_tokens(10 * steps) == loader.n_samples * 32


def test_dtypes_are_the_contract(store: TokenStore) -> None:
    batch = Loader(store, 16, 4, seed=0, separate_documents=True).batch(0)
    assert batch.tokens_BT.dtype == batch.targets_BT.dtype == np.int64
    assert batch.weights_BT.dtype == np.float32
    assert batch.segments_BT is not None
    assert batch.positions_BT is not None
    assert batch.segments_BT.dtype == batch.positions_BT.dtype == np.int32


def test_separate_documents_number_segments_and_restart_positions(store: TokenStore) -> None:
    batch = Loader(store, 1000, 4, seed=0, separate_documents=True).batch(0)
    assert batch.segments_BT is not None
    assert batch.positions_BT is not None
    assert (batch.segments_BT.max(axis=1) > 0).any()
    for tokens, segments, positions in zip(
        batch.tokens_BT, batch.segments_BT, batch.positions_BT, strict=True
    ):
        starts = np.flatnonzero(tokens == store.end_of_document).tolist()
        for number, (low, high) in enumerate(pairwise(sorted({0, *starts, len(tokens)}))):
            offset = int(tokens[0] == store.end_of_document)
            assert (segments[low:high] == number + offset).all()
            assert positions[low:high].tolist() == list(range(high - low))


@pytest.mark.parametrize(
    ("length", "size", "world"), [(16, 4, 1), (16, 4, 3), (50, 7, 2), (5000, 3, 1)]
)
def test_heldout_covers_each_token_once(
    prepared: Prepared, length: int, size: int, world: int
) -> None:
    store = TokenStore.open(prepared.heldout)
    heldout = Loader.heldout(store, length, size)
    ranks = [list(heldout.batches(rank, world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for step in zip(*ranks, strict=True) for batch in step]
    targets = np.concatenate([batch.targets_BT[batch.weights_BT > 0] for batch in batches])
    assert np.array_equal(targets, store.window(0, store.n_tokens))
    inputs = np.concatenate([batch.tokens_BT[batch.weights_BT > 0] for batch in batches])
    assert inputs[0] == store.end_of_document
    assert np.array_equal(inputs[1:], targets[:-1])


def test_heldout_can_be_cut_to_a_fixed_number_of_tokens(prepared: Prepared) -> None:
    heldout = Loader.heldout(TokenStore.open(prepared.heldout), 16, 4, max_tokens=100)
    assert sum(batch.weights_BT.sum() for batch in heldout.batches()) == heldout.n_tokens == 100


def test_a_store_shorter_than_a_sequence_is_refused(store: TokenStore) -> None:
    with pytest.raises(DataError, match="too few for one sequence of 1000000") as error:
        Loader(store, 1_000_000, 1, seed=0)
    assert error.value.key == ("sequence_length",)


def test_a_change_of_shape_neither_repeats_nor_skips_tokens(store: TokenStore) -> None:
    """Tokens in the order they are consumed are the same stream, however it is cut."""

    def stream(loader: Loader, steps: range) -> np.ndarray:
        return np.concatenate([loader.batch(step).targets_BT.ravel() for step in steps])

    plain = Loader(store, 64, 4, seed=3, order_length=64)
    short = Loader(store, 16, 4, seed=3, order_length=64)
    wide = short.switched(step=8, sequence_length=32, batch_size=6)
    long = wide.switched(step=16, sequence_length=64, batch_size=2)
    tokens = [stream(short, range(8)), stream(wide, range(8, 16)), stream(long, range(16, 30))]
    consumed = np.concatenate(tokens)
    assert np.array_equal(consumed, stream(plain, range(20))[: len(consumed)])
    assert long.exposures(30)[0].tokens == len(consumed)
    with pytest.raises(DataError, match="no whole number of sequences of 64"):
        short.switched(step=1, sequence_length=64, batch_size=3).switched(2, 16, 1).switched(
            3, 64, 1
        )
    with pytest.raises(DataError, match="no whole number"):
        Loader(store, 48, 4, seed=3, order_length=64)


def test_unique_tokens_are_a_random_sample_that_larger_ones_hold(store: TokenStore) -> None:
    def epoch(unique: int, seed: int, first: int = 0) -> list[tuple[int, ...]]:
        loader = Loader(store, 16, 1, seed=seed, unique_tokens=unique)
        assert loader.n_samples == unique // 16
        steps = range(first * loader.n_samples, (first + 1) * loader.n_samples)
        return [tuple(loader.batch(step).tokens_BT[0].tolist()) for step in steps]

    small, large = epoch(16 * 20, seed=0), epoch(16 * 60, seed=0)
    assert set(small) <= set(large)
    assert sorted(epoch(16 * 20, seed=3)) == sorted(small) == sorted(epoch(16 * 20, 0, first=2))
    assert epoch(16 * 20, seed=3) != small
    whole = [tuple(row.tolist()) for row in store.window(0, 16 * 20).reshape(-1, 16)]
    assert len(set(small) & set(whole)) < 15
    with pytest.raises(DataError, match="given 8 unique tokens of all; allowed: 16 to"):
        Loader(store, 16, 1, seed=0, unique_tokens=8)
