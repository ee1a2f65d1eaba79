import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.loader import Loader
from data.mixture import Blend, Mixture, Part
from data.prepare import Prepared
from data.store import TokenStore

Weights = st.lists(st.floats(0.01, 10), min_size=1, max_size=5)


@given(Weights, st.integers(0, 10**12))
def test_counts_stay_within_a_few_samples_of_the_weights(weights: list[float], n: int) -> None:
    counts = Blend(weights, [None] * len(weights)).counts(n)
    assert sum(counts) == n
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - n * weight / sum(weights)) <= len(weights) + n * 5 * 2.0**-20


@settings(deadline=None)
@given(Weights, st.data())
def test_each_source_gives_its_samples_in_order(weights: list[float], data: st.DataObject) -> None:
    limits = [data.draw(st.none() | st.integers(0, 60)) for _ in weights]
    blend = Blend(weights, limits)
    length = 200 if blend.total is None else min(200, blend.total)
    sources, numbers = blend.locate(np.arange(length))
    for source, limit in enumerate(limits):
        own = numbers[sources == source].tolist()
        assert own == list(range(len(own)))
        assert blend.counts(length)[source] == len(own)
        assert limit is None or len(own) <= limit
    if blend.total is not None:
        assert blend.total == sum(limit or 0 for limit in limits)
        with pytest.raises(DataError, match="reaches its max_epochs"):
            blend.locate(np.array([blend.total]))


def test_a_share_too_small_to_write_down_is_drawn_all_the_same() -> None:
    blend = Blend([1.0, 1e-9, 1e-9], [None, 3, 2])
    assert blend.counts(2**45)[1:] == [3, 2]
    assert blend.counts(1000)[0] >= 998
    sources, _ = blend.locate(np.arange(2_200_000))
    assert np.bincount(sources).tolist() == blend.counts(2_200_000)


def test_positions_far_out_cost_nothing() -> None:
    sources, numbers = Blend([0.7, 0.3], [None, 1000]).locate(np.array([10**12]))
    assert (sources[0], numbers[0]) == (0, 10**12 - 1000)


@pytest.fixture(scope="module")
def mixture(prepared: Prepared) -> Mixture:
    train, heldout = TokenStore.open(prepared.train), TokenStore.open(prepared.heldout)
    return Mixture((Part("a", train, 3.0), Part("b", heldout, 1.0, max_epochs=2.0)))


def test_a_mixture_loads_by_weight_and_counts_epochs(mixture: Mixture) -> None:
    loader = Loader(mixture, sequence_length=16, batch_size=8, seed=0)
    a, b = (Loader(part.store, 16, 1, seed=0) for part in mixture.parts)
    rows_of = [
        {tuple(own.batch(step).tokens_BT[0].tolist()) for step in range(own.n_samples)}
        for own in (a, b)
    ]
    steps = 2 * b.n_samples * 4 // 8 + 4
    rows = [tuple(row) for step in range(steps) for row in loader.batch(step).tokens_BT.tolist()]
    first_quarter = rows[: len(rows) // 4]
    of_b = sum(row in rows_of[1] for row in first_quarter)
    assert of_b == pytest.approx(len(first_quarter) / 4, abs=2)
    seen = loader.exposures(steps)
    assert [exposure.name for exposure in seen] == ["a", "b"]
    assert seen[1].epochs == 2.0
    assert seen[1].unique_tokens == b.n_samples * 16
    assert sum(exposure.tokens for exposure in seen) == steps * 8 * 16
    assert sum(row in rows_of[1] for row in rows) == 2 * b.n_samples


def test_unique_tokens_of_a_mixture_are_its_parts_by_weight_and_come_again_together(
    mixture: Mixture,
) -> None:
    unique = 16 * 40
    mixture = Mixture(tuple(dataclasses.replace(part, max_epochs=None) for part in mixture.parts))
    loader = Loader(mixture, sequence_length=16, batch_size=8, seed=0, unique_tokens=unique)
    assert loader.n_samples == 40
    for step in (3, 5, 10, 15, 20):
        seen = loader.exposures(step)
        assert [exposure.epochs for exposure in seen] == pytest.approx([step / 5] * 2, abs=0.1)
        assert loader.unique_tokens(step) == pytest.approx(min(step / 5, 1) * unique, abs=32)
    rows = [tuple(row) for step in range(15) for row in loader.batch(step).tokens_BT.tolist()]
    assert set(Counter(rows).values()) == {3}
    smaller = Loader(mixture, 16, 8, seed=1, unique_tokens=16 * 16)
    assert {
        tuple(row) for step in range(2) for row in smaller.batch(step).tokens_BT.tolist()
    } < set(rows)
    with pytest.raises(DataError, match="given 12 unique tokens of b; allowed: 16 to"):
        Loader(mixture, 16, 8, seed=0, unique_tokens=48)
    whole = Loader(mixture, 16, 8, seed=0, unique_tokens=mixture.unique_tokens)
    assert whole.n_samples * 16 == pytest.approx(mixture.unique_tokens, abs=48)


def test_a_mixture_does_not_depend_on_the_ranks(mixture: Mixture) -> None:
    loader = Loader(mixture, 16, 12, seed=1, separate_documents=True)
    whole = dataclasses.astuple(loader.batch(5))[:5]
    ranks = [dataclasses.astuple(loader.batch(5, rank, 5))[:5] for rank in range(5)]
    for parts, array in zip(zip(*ranks, strict=True), whole, strict=True):
        assert np.array_equal(np.concatenate(parts), array)


def test_parts_of_other_vocabularies_are_refused(mixture: Mixture, tmp_path: Path) -> None:
    other = dataclasses.replace(mixture.parts[0].store, vocab_size=999)
    with pytest.raises(DataError, match=r"need one vocabulary, these differ: a \(300\), c \(999\)"):
        Mixture((mixture.parts[0], Part("c", other)))
    with pytest.raises(DataError, match="weight of c is 0"):
        Part("c", other, weight=0)
