from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from data.batch import Batch, causal
from data.errors import DataError
from data.loader import Loader
from data.objectives import (
    Infilling,
    Masked,
    MultiToken,
    Prefix,
    ReplacedToken,
    SpanCorruption,
    _n_spans,
    uniforms,
)
from data.prepare import Prepared
from data.store import TokenStore
from models.objective import spans_of

VOCAB = 1000
SENTINELS = tuple(range(999, 900, -1))
Transform = Callable[[Batch, np.ndarray], Batch]


@pytest.fixture
def batch() -> Batch:
    return causal(np.random.default_rng(0).integers(5, 900, (64, 129)))


@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 3.0), (0.3, 3.0), (0.5, 1.0), (0.9, 20)])
def test_costs_count_the_spans_that_rows_have(density: float, mean_span: float) -> None:
    """What models and data each round for themselves, neither importing the other."""
    for length in [*range(2, 130), 511, 512, 1024, 4096]:
        assert _n_spans(length, density, mean_span) == spans_of(length, density, mean_span)


SAMPLES = np.arange(64)
OBJECTIVES: list[Transform] = [
    Masked(mask_token=1, vocab_size=VOCAB),
    ReplacedToken(vocab_size=VOCAB),
    MultiToken(depth=3),
    SpanCorruption(SENTINELS, end_of_document=0),
    SpanCorruption(SENTINELS, end_of_document=0, joined=True),
    ReplacedToken(vocab_size=VOCAB, mask_token=1),
    Infilling(mask_token=1, end_of_document=0),
    Prefix(end_of_document=0, share=0.25),
]


def test_uniforms_are_uniform_and_a_function_of_the_sample() -> None:
    numbers = uniforms(np.arange(1000), 100, "key", 0)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.005)
    assert np.array_equal(uniforms(np.array([7]), 100, "key", 0)[0], numbers[7])
    assert not np.array_equal(uniforms(np.array([7]), 100, "key", 1)[0], numbers[7])
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_rows_are_transformed_each_by_its_own_number(batch: Batch, objective: Transform) -> None:
    whole = objective(batch, SAMPLES)
    half = Batch(batch.tokens_BT[32:], batch.targets_BT[32:], batch.weights_BT[32:])
    again = objective(half, SAMPLES[32:])
    for name in ("tokens_BT", "targets_BT", "weights_BT", "sources_BS"):
        if getattr(whole, name) is not None:
            assert np.array_equal(getattr(whole, name)[32:], getattr(again, name))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_the_given_batch_is_left_alone(batch: Batch, objective: Transform) -> None:
    before = batch.tokens_BT.copy(), batch.targets_BT.copy(), batch.weights_BT.copy()
    objective(batch, SAMPLES)
    after = batch.tokens_BT, batch.targets_BT, batch.weights_BT
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_masking_replaces_80_10_10(batch: Batch) -> None:
    out = Masked(mask_token=1, vocab_size=VOCAB)(batch, SAMPLES)
    target = out.weights_BT > 0
    assert target.mean() == pytest.approx(0.15, abs=0.02)
    assert np.array_equal(out.targets_BT, batch.tokens_BT)
    assert np.array_equal(out.tokens_BT[~target], batch.tokens_BT[~target])
    masked = out.tokens_BT[target] == 1
    same = out.tokens_BT[target] == batch.tokens_BT[target]
    assert masked.mean() == pytest.approx(0.8, abs=0.04)
    assert same.mean() == pytest.approx(0.1, abs=0.03)


def test_replaced_tokens_are_those_that_differ(batch: Batch) -> None:
    out = ReplacedToken(vocab_size=VOCAB)(batch, SAMPLES)
    assert np.array_equal(out.targets_BT, (out.tokens_BT != batch.tokens_BT).astype(int))
    assert out.targets_BT.mean() == pytest.approx(0.15, abs=0.02)
    assert out.weights_BT.all()


def test_a_generator_is_given_masks_and_the_text(batch: Batch) -> None:
    out = ReplacedToken(vocab_size=VOCAB, mask_token=1)(batch, SAMPLES)
    masked = out.tokens_BT == 1
    assert masked.mean() == pytest.approx(0.15, abs=0.02)
    assert np.array_equal(out.targets_BT, batch.tokens_BT)
    assert np.array_equal(out.tokens_BT[~masked], batch.tokens_BT[~masked])
    assert out.weights_BT.all()


def test_every_row_has_a_target_and_padding_none(batch: Batch) -> None:
    batch.weights_BT[0] = 0
    batch.weights_BT[1, 3:] = 0
    out = Masked(mask_token=1, vocab_size=VOCAB, probability=1e-6)(batch, SAMPLES)
    assert out.weights_BT.sum(1).tolist() == [0] + [1] * 63
    assert out.weights_BT[1, :3].sum() == 1


def test_infilled_spans_are_poisson_given_their_sum() -> None:
    """Binomial each: mean 3, variance 3 less the part that the sum takes, and some of them empty."""
    length, rows = 200, 400
    noise, count = 60, 20
    text = np.tile(np.arange(length), (rows, 1))
    row = Batch(text, text + 1, np.ones(text.shape, np.float32))
    made = Infilling(mask_token=-7, end_of_document=0)(row, np.arange(rows))
    assert made.sources_BS is not None
    lengths = []
    for source in made.sources_BS:
        (masks,) = np.nonzero(source == -7)
        assert len(masks) == count
        before = source[masks - 1]  # each mask follows what is kept
        after = np.append(source[:-1][masks[:-1] + 1], length)
        lengths.append(after - before - 1)
    spans = np.array(lengths)
    assert (spans.sum(1) == noise).all()
    assert spans.mean() == 3
    assert spans.var() == pytest.approx(3 * (1 - 1 / count), rel=0.05)
    assert (spans == 0).mean() == pytest.approx((1 - 1 / count) ** noise, rel=0.15)


def test_infilling_hides_spans_and_wants_the_text(batch: Batch) -> None:
    out = Infilling(mask_token=1, end_of_document=0)(batch, SAMPLES)
    assert out.sources_BS is not None
    assert np.array_equal(out.targets_BT, batch.tokens_BT)
    assert np.array_equal(out.tokens_BT[:, 1:], batch.tokens_BT[:, :-1])
    assert (out.tokens_BT[:, 0] == 0).all()
    hidden = round(0.3 * 128)
    assert ((out.sources_BS == 1).sum(1) == round(hidden / 3)).all()
    assert out.sources_BS.shape[1] == 128 - hidden + round(hidden / 3)
    for source, text in zip(out.sources_BS, batch.tokens_BT, strict=True):
        kept = iter(text.tolist())  # what is kept stands in the text in this order
        assert all(token in kept for token in source[source != 1].tolist())


def test_a_prefix_and_its_rest_are_the_text(batch: Batch) -> None:
    out = Prefix(end_of_document=0, share=0.25)(batch, SAMPLES)
    assert out.sources_BS is not None
    assert out.sources_BS.shape == (64, 32)
    assert np.array_equal(np.hstack([out.sources_BS, out.targets_BT]), batch.tokens_BT)


def test_rows_with_padding_do_not_count_for_a_decoder(batch: Batch) -> None:
    batch.weights_BT[2, 100:] = 0
    for objective in (SpanCorruption(SENTINELS, 0), SpanCorruption(SENTINELS, 0, joined=True)):
        counted = objective(batch, SAMPLES).weights_BT.any(1)
        assert counted.tolist() == [True, True, False] + [True] * 61


def test_multi_token_targets_are_the_tokens_ahead(batch: Batch) -> None:
    out = MultiToken(depth=3)(batch, SAMPLES)
    assert np.array_equal(out.targets_BT[..., 0], batch.targets_BT)
    assert np.array_equal(out.targets_BT[:, :-2, 2], batch.targets_BT[:, 2:])
    assert out.weights_BT.sum() == 64 * (128 + 127 + 126)


def test_multi_token_targets_stay_in_their_document() -> None:
    tokens = np.array([[5, 6, 0, 7, 8, 9]])
    out = MultiToken(depth=2)(causal(tokens, end_of_document=0), np.array([0]))
    assert out.weights_BT[0, :, 1].tolist() == [1, 0, 1, 1, 0]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(
    ("density", "mean_span"), [(0.15, 3.0), (0.5, 8.0), (0.01, 1.0), (0.9, 2.0)]
)
def test_source_and_target_spans_make_the_whole(
    batch: Batch, joined: bool, density: float, mean_span: float
) -> None:
    objective = SpanCorruption(SENTINELS, 0, density=density, mean_span=mean_span, joined=joined)
    out = objective(batch, SAMPLES)
    noise = max(round(128 * density), 1)
    for row in range(64):
        if joined:
            weights = out.weights_BT[row]
            target = out.targets_BT[row][weights > 0].tolist()
            source = out.tokens_BT[row][: int((weights == 0).sum())].tolist()
            assert out.tokens_BT[row][len(source)] == 0
        else:
            assert out.sources_BS is not None
            source, target = out.sources_BS[row].tolist(), out.targets_BT[row].tolist()
            assert out.tokens_BT[row].tolist() == [0, *target[:-1]]
        sentinels = [token for token in target if token > 900]
        assert sentinels == list(range(999, 999 - len(sentinels), -1))
        at = [target.index(sentinel) for sentinel in sentinels]
        spans = {target[low]: target[low + 1 : high] for low, high in pairwise(at)}
        whole = [t for token in source for t in spans.get(token, [token])]
        assert whole == batch.tokens_BT[row].tolist()
        assert sum(map(len, spans.values())) == noise
        assert all(spans.values())


def test_spans_are_spread_evenly() -> None:
    batch = causal(np.full((2000, 65), 7))
    out = SpanCorruption(SENTINELS, 0)(batch, np.arange(2000))
    assert out.sources_BS is not None
    first = np.argmax(out.sources_BS > 900, axis=1)
    assert 8 < first.mean() < 25


def test_span_corruption_refuses_separate_documents_and_too_few_sentinels(batch: Batch) -> None:
    apart = causal(batch.tokens_BT, end_of_document=0)
    with pytest.raises(DataError, match="need 7 sentinels, there are 2"):
        SpanCorruption((5, 6), 0)(batch, SAMPLES)
    with pytest.raises(DataError, match="takes whole rows"):
        SpanCorruption(SENTINELS, 0)(apart, SAMPLES)


def test_the_loader_applies_objectives_the_same_on_any_rank(prepared: Prepared) -> None:
    store = TokenStore.open(prepared.train)
    loader = Loader(store, 32, 8, seed=0, objective=Masked(mask_token=1, vocab_size=300))
    parts = [loader.batch(4, rank, 3).tokens_BT for rank in range(3)]
    assert np.array_equal(np.concatenate(parts), loader.batch(4).tokens_BT)
    epoch_later = loader.n_samples // 8
    assert not np.array_equal(loader.batch(4).weights_BT, loader.batch(4 + epoch_later).weights_BT)
