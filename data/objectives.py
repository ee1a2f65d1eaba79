"""What is to be predicted, as transforms of causal batches; the loss function stays the same.

An objective maps a causal batch (tokens, next tokens as targets) and the sample number of each row
to another `Batch`. Its choices are a function of (seed, sample number): the same on any rank and at
any resume, and new in every epoch.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.batch import Batch
from data.errors import DataError
from data.order import key_of, mix

Samples = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int64]


def uniforms(samples_B: Samples, count: int, *key: str | int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), shape (B, count): a function of each sample's number and the key alone."""
    rows_B1 = mix(samples_B.astype(np.uint64), key_of(*key))[:, None]
    columns = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits_BT = mix(rows_B1 ^ columns, 0) >> np.uint64(11)
    return np.ldexp(bits_BT.astype(np.float64), -53)


@dataclass(frozen=True)
class Masked:
    """Masked language modelling (BERT, arXiv 1810.04805): a share of the tokens are targets; of
    these 80 % are replaced by the mask, 10 % by a random token, 10 % stay as they are. A row that
    holds text has at least one target, as in BERT's code."""

    mask_token: int
    vocab_size: int
    seed: int = 0
    probability: float = 0.15

    def __call__(self, batch: Batch, samples_B: Samples) -> Batch:
        shape = batch.tokens_BT.shape
        chosen_BT, fate_BT, random_BT = (
            uniforms(samples_B, shape[1], "masked", self.seed, part) for part in range(3)
        )
        target_BT = _chosen(chosen_BT, self.probability, batch)
        tokens_BT = np.where(target_BT & (fate_BT < 0.8), self.mask_token, batch.tokens_BT)
        replaced_BT = target_BT & (fate_BT >= 0.9)
        random_token_BT = (random_BT * self.vocab_size).astype(np.int64)
        tokens_BT = np.where(replaced_BT, random_token_BT, tokens_BT)
        return replace(
            batch,
            tokens_BT=tokens_BT,
            targets_BT=batch.tokens_BT.copy(),
            weights_BT=target_BT.astype(np.float32),
        )


@dataclass(frozen=True)
class ReplacedToken:
    """Replaced-token detection (ELECTRA, arXiv 2003.10555): targets are 1 where a token is not the
    original one. Replacements are uniform over the vocabulary; with a `mask_token` they are left to
    a generator network: the chosen tokens are masked, and the targets are the original ones."""

    vocab_size: int
    seed: int = 0
    probability: float = 0.15
    mask_token: int | None = None

    def __call__(self, batch: Batch, samples_B: Samples) -> Batch:
        length = batch.tokens_BT.shape[1]
        chosen_BT, random_BT = (
            uniforms(samples_B, length, "replaced", self.seed, part) for part in range(2)
        )
        random_token_BT = (random_BT * self.vocab_size).astype(np.int64)
        replaced_BT = _chosen(chosen_BT, self.probability, batch)
        weights_BT = _counted(batch).astype(np.float32)
        if self.mask_token is not None:
            tokens_BT = np.where(replaced_BT, self.mask_token, batch.tokens_BT)
            targets_BT = batch.tokens_BT.copy()
        else:
            tokens_BT = np.where(replaced_BT, random_token_BT, batch.tokens_BT)
            targets_BT = (tokens_BT != batch.tokens_BT).astype(np.int64)
        return replace(batch, tokens_BT=tokens_BT, targets_BT=targets_BT, weights_BT=weights_BT)


@dataclass(frozen=True)
class MultiToken:
    """Multi-token prediction (arXiv 2404.19737): targets and weights get a last axis of `depth`,
    whose entry k is the token k + 1 ahead. Beyond the row or the document its weight is 0."""

    depth: int

    def __call__(self, batch: Batch, samples_B: Samples) -> Batch:
        targets_BTK = np.zeros((*batch.targets_BT.shape, self.depth), np.int64)
        weights_BTK = np.zeros(targets_BTK.shape, np.float32)
        length = batch.targets_BT.shape[1]
        for k in range(min(self.depth, length)):
            targets_BTK[:, : length - k, k] = batch.targets_BT[:, k:]
            weights_BTK[:, : length - k, k] = batch.weights_BT[:, k:]
            if batch.segments_BT is not None:
                same_BT = batch.segments_BT[:, k:] == batch.segments_BT[:, : length - k]
                weights_BTK[:, : length - k, k] *= same_BT
        return replace(batch, targets_BT=targets_BTK, weights_BT=weights_BTK)


@dataclass(frozen=True)
class SpanCorruption:
    """Span corruption (T5, arXiv 1910.10683): random spans, `density` of the tokens in spans of
    `mean_span` on average, become one sentinel each in the source; the targets are the sentinels,
    each followed by its span, and a last sentinel.

    The numbers of noise tokens and spans depend on T alone, so all rows have one length and need no
    padding. For an encoder-decoder, the batch's `sources_BS` are what the encoder reads, and
    `tokens_BT` are the targets after one end of document. For a decoder alone (`joined`), the row
    is the source and then the targets, which alone have weight. A row with padding has none.
    """

    sentinels: tuple[int, ...]
    end_of_document: int
    seed: int = 0
    density: float = 0.15
    mean_span: float = 3.0
    joined: bool = False

    def __call__(self, batch: Batch, samples_B: Samples) -> Batch:
        _whole_rows(batch, "span corruption")
        length = batch.tokens_BT.shape[1]
        spans = _spans(samples_B, length, self.seed, self.density, self.mean_span)
        if len(self.sentinels) <= spans.n_spans:
            raise DataError(
                f"{spans.n_spans} spans in a row of {length} need {spans.n_spans + 1} sentinels, "
                f"there are {len(self.sentinels)}",
                ("sentinels",),
            )
        sentinels = np.array(self.sentinels)
        source_BS = spans.source(batch.tokens_BT, sentinels)
        target_BR = spans.target(batch.tokens_BT, sentinels)
        if not self.joined:
            return _to_decode(batch, source_BS, target_BR, self.end_of_document)
        start_B1 = np.full((len(samples_B), 1), self.end_of_document, np.int64)
        whole_BW = np.concatenate([source_BS, start_B1, target_BR], axis=1)
        weights_BW = np.zeros((len(samples_B), whole_BW.shape[1] - 1), np.float32)
        weights_BW[:, source_BS.shape[1] :] = _unpadded(batch)
        return Batch(whole_BW[:, :-1], whole_BW[:, 1:], weights_BW)


@dataclass(frozen=True)
class Infilling:
    """Text infilling (BART, arXiv 1910.13461): spans become one mask each in the source, and the
    targets are the whole text.

    Spans are Poisson in length, zero included: a mask may stand where nothing is hidden. All rows
    hide equally many tokens in equally many spans, and Poisson lengths that must add up to a number
    are multinomial, whatever their mean: each hidden token belongs to one of the spans by chance.
    """

    mask_token: int
    end_of_document: int
    seed: int = 0
    density: float = 0.3
    mean_span: float = 3.0

    def __call__(self, batch: Batch, samples_B: Samples) -> Batch:
        _whole_rows(batch, "infilling")
        length = batch.tokens_BT.shape[1]
        noise, count = _n_spans(length, self.density, self.mean_span)
        kept = length - noise
        share_BN, cut_BK = (
            uniforms(samples_B, n, "infilling", self.seed, part)
            for part, n in enumerate((noise, kept - 1))
        )
        spans_BC = _counts((share_BN * count).astype(np.int64), count)
        gaps_BC = _composition(cut_BK, kept, count)
        ends_BC = np.cumsum(gaps_BC + spans_BC, axis=1)
        hidden_BT = _between(ends_BC - spans_BC, ends_BC, length)
        is_text_BS = np.ones((len(samples_B), kept + count), np.bool_)
        np.put_along_axis(is_text_BS, np.cumsum(gaps_BC, axis=1) + np.arange(count), False, axis=1)
        source_BS = np.full(is_text_BS.shape, self.mask_token, np.int64)
        source_BS[is_text_BS] = batch.tokens_BT[~hidden_BT]
        return _to_decode(batch, source_BS, batch.tokens_BT, self.end_of_document)


@dataclass(frozen=True)
class Prefix:
    """The first `share` of each row is the source, the rest the targets (arXiv 1910.10683, section
    3.2.1)."""

    end_of_document: int
    share: float = 0.5

    def __call__(self, batch: Batch, samples_B: Samples) -> Batch:
        _whole_rows(batch, "a prefix")
        length = batch.tokens_BT.shape[1]
        cut = min(max(round(length * self.share), 1), length - 1)
        source_BS, target_BR = batch.tokens_BT[:, :cut], batch.tokens_BT[:, cut:]
        return _to_decode(batch, source_BS, target_BR, self.end_of_document)


class _Spans(NamedTuple):
    """Rows alternate kept stretches and hidden spans, a kept one first, a span last, as in T5.
    `opens` marks the first token of each span, `closes` of each stretch."""

    n_spans: int
    hidden_BT: npt.NDArray[np.bool_]
    opens_BT: npt.NDArray[np.bool_]
    closes_BT: npt.NDArray[np.bool_]

    def source(self, tokens_BT: Tokens, sentinels: Tokens) -> Tokens:
        """What is kept, and a sentinel in each span's place."""
        marked_BT = np.where(self.opens_BT, sentinels[_number(self.opens_BT)], tokens_BT)
        return marked_BT[~self.hidden_BT | self.opens_BT].reshape(len(tokens_BT), -1)

    def target(self, tokens_BT: Tokens, sentinels: Tokens) -> Tokens:
        """The spans, a sentinel before each and after the last."""
        marked_BT = np.where(self.closes_BT, sentinels[_number(self.closes_BT)], tokens_BT)
        spans_BR = marked_BT[self.hidden_BT | self.closes_BT].reshape(len(tokens_BT), -1)
        last_B1 = np.full((len(tokens_BT), 1), sentinels[self.n_spans], np.int64)
        return np.concatenate([spans_BR, last_B1], axis=1)


def _n_spans(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """Hidden tokens and spans of a row; those of all rows are as many, as batches are arrays."""
    noise = min(max(round(length * density), 1), length - 1)
    return noise, max(min(round(noise / mean_span), noise, length - noise), 1)


def _spans(samples_B: Samples, length: int, seed: int, density: float, mean_span: float) -> _Spans:
    noise, count = _n_spans(length, density, mean_span)
    spans_BC, gaps_BC = (
        _composition(uniforms(samples_B, total - 1, "spans", seed, part), total, count)
        for part, total in enumerate((noise, length - noise))
    )
    starts_BC = np.cumsum(gaps_BC + spans_BC, axis=1) - spans_BC
    opens_BT, closes_BT = np.zeros((2, len(samples_B), length), np.bool_)
    np.put_along_axis(opens_BT, starts_BC, True, axis=1)
    np.put_along_axis(closes_BT, starts_BC - gaps_BC, True, axis=1)
    return _Spans(count, _number(opens_BT) == _number(closes_BT), opens_BT, closes_BT)


def _counts(which_BN: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """How often each number below `count` stands in each row."""
    rows_B1 = np.arange(len(which_BN))[:, None] * count
    return np.bincount((rows_B1 + which_BN).ravel(), minlength=len(which_BN) * count).reshape(
        -1, count
    )


def _between(
    starts_BC: npt.NDArray[np.int64], ends_BC: npt.NDArray[np.int64], length: int
) -> npt.NDArray[np.bool_]:
    """Positions in one of the spans [start, end) of each row, some of which may be empty."""
    opened_BT, closed_BT = (
        np.cumsum([np.bincount(row, minlength=length + 1) for row in edges_BC], axis=1)[:, :length]
        for edges_BC in (starts_BC, ends_BC)
    )
    inside_BT: npt.NDArray[np.bool_] = opened_BT > closed_BT
    return inside_BT


def _number(marks_BT: npt.NDArray[np.bool_]) -> Tokens:
    """Which of a row's marks was the last, from 0."""
    return np.cumsum(marks_BT, axis=1) - 1


def _to_decode(batch: Batch, source_BS: Tokens, target_BR: Tokens, start: int) -> Batch:
    """Targets after one start, beside their source."""
    start_B1 = np.full((len(target_BR), 1), start, np.int64)
    tokens_BR = np.concatenate([start_B1, target_BR[:, :-1]], axis=1)
    weights_BR = np.ones(target_BR.shape, np.float32) * _unpadded(batch)
    return Batch(tokens_BR, target_BR, weights_BR, sources_BS=source_BS)


def _unpadded(batch: Batch) -> npt.NDArray[np.bool_]:
    """Rows (B, 1) that hold text from end to end."""
    whole_B1: npt.NDArray[np.bool_] = np.all(_counted(batch), axis=1)[:, None]
    return whole_B1


def _whole_rows(batch: Batch, what: str) -> None:
    if batch.segments_BT is not None:
        raise DataError(f"{what} takes whole rows, not separate documents")


def _chosen(
    uniforms_BT: npt.NDArray[np.float64], probability: float, batch: Batch
) -> npt.NDArray[np.bool_]:
    """That share of the text, and at least one token of a row that holds any."""
    counted_BT = _counted(batch)
    draws_BT = np.where(counted_BT, uniforms_BT, np.inf)
    lowest_B1 = draws_BT.min(axis=1, keepdims=True)
    chosen_BT: npt.NDArray[np.bool_] = draws_BT <= np.maximum(lowest_B1, probability)
    return chosen_BT & counted_BT


def _composition(
    uniforms_BN: npt.NDArray[np.float64], total: int, parts: int
) -> npt.NDArray[np.int64]:
    """A uniformly random way for each row to write `total` as an ordered sum of `parts` >= 1."""
    cuts = np.sort(np.argsort(uniforms_BN, axis=1, kind="stable")[:, : parts - 1], axis=1) + 1
    return np.diff(cuts, axis=1, prepend=0, append=total)


def _counted(batch: Batch) -> npt.NDArray[np.bool_]:
    """Positions that hold text rather than padding."""
    counted: npt.NDArray[np.bool_] = batch.weights_BT > 0
    return counted
