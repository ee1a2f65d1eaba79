"""What is to be predicted, as transforms of causal batches; the loss function stays the same.

An objective maps a causal batch (tokens, next tokens as targets) and the sample number of each row
to another `Batch`. Its choices are a function of (seed, sample number): the same on any rank and at
any resume, and new in every epoch.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from data.batch import Batch
from data.errors import DataError
from data.order import key_of, mix

Samples = npt.NDArray[np.int64]


def uniforms(samples_B: Samples, count: int, *key: str | int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), shape (B, count): a function of each sample's number and the key alone."""
    rows_B1 = mix(samples_B.astype(np.uint64), key_of(*key))[:, None]
    columns = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits_BT = mix(rows_B1 ^ columns, 0) >> np.uint64(11)
    return np.ldexp(bits_BT.astype(np.float64), -53)


@dataclass(frozen=True)
class Masked:
    """Masked language modelling (BERT, arXiv 1810.04805): a share of the tokens are targets; of
    these 80 % are replaced by the mask, 10 % by a random token, 10 % stay as they are."""

    mask_token: int
    vocab_size: int
    seed: int = 0
    probability: float = 0.15

    def __call__(self, batch: Batch, samples_B: Samples) -> Batch:
        shape = batch.tokens_BT.shape
        chosen_BT, fate_BT, random_BT = (
            uniforms(samples_B, shape[1], "masked", self.seed, part) for part in range(3)
        )
        target_BT = (chosen_BT < self.probability) & _counted(batch)
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
    original one. Replacements are uniform over the vocabulary, not drawn from a generator
    network."""

    vocab_size: int
    seed: int = 0
    probability: float = 0.15

    def __call__(self, batch: Batch, samples_B: Samples) -> Batch:
        length = batch.tokens_BT.shape[1]
        chosen_BT, random_BT = (
            uniforms(samples_B, length, "replaced", self.seed, part) for part in range(2)
        )
        random_token_BT = (random_BT * self.vocab_size).astype(np.int64)
        replaced_BT = (chosen_BT < self.probability) & _counted(batch)
        tokens_BT = np.where(replaced_BT, random_token_BT, batch.tokens_BT)
        return replace(
            batch,
            tokens_BT=tokens_BT,
            targets_BT=(tokens_BT != batch.tokens_BT).astype(np.int64),
            weights_BT=_counted(batch).astype(np.float32),
        )


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
    padding. For an encoder-decoder, the
    batch's `sources_BS` are what the encoder reads, and `tokens_BT` are the targets after one
    end of document. For a decoder alone (`joined`), the row is the source and then the targets,
    which alone have weight.
    """

    sentinels: tuple[int, ...]
    end_of_document: int
    seed: int = 0
    density: float = 0.15
    mean_span: float = 3.0
    joined: bool = False

    def __call__(self, batch: Batch, samples_B: Samples) -> Batch:
        if batch.segments_BT is not None:
            raise DataError("span corruption takes whole rows, not separate documents")
        source_BS, target_BR = self._corrupt(batch.tokens_BT, samples_B)
        start_B1 = np.full((len(samples_B), 1), self.end_of_document, np.int64)
        if not self.joined:
            tokens_BR = np.concatenate([start_B1, target_BR[:, :-1]], axis=1)
            weights_BR = np.ones(target_BR.shape, np.float32)
            return Batch(tokens_BR, target_BR, weights_BR, sources_BS=source_BS)
        whole_BW = np.concatenate([source_BS, start_B1, target_BR], axis=1)
        weights_BW = np.zeros((len(samples_B), whole_BW.shape[1] - 1), np.float32)
        weights_BW[:, source_BS.shape[1] :] = 1
        return Batch(whole_BW[:, :-1], whole_BW[:, 1:], weights_BW)

    def _corrupt(
        self, tokens_BT: npt.NDArray[np.int64], samples_B: Samples
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows alternate kept stretches and spans, a kept one first, a span last, as in T5."""
        size, length = tokens_BT.shape
        noise = min(max(round(length * self.density), 1), length - 1)
        count = max(min(round(noise / self.mean_span), noise, length - noise), 1)
        if len(self.sentinels) <= count:
            raise DataError(
                f"{count} spans in a row of {length} need {count + 1} sentinels, "
                f"there are {len(self.sentinels)}",
                ("sentinels",),
            )
        spans_BC, gaps_BC = (
            _composition(uniforms(samples_B, total - 1, "spans", self.seed, part), total, count)
            for part, total in enumerate((noise, length - noise))
        )
        starts_BC = np.cumsum(gaps_BC + spans_BC, axis=1) - spans_BC
        begins_span_BT, begins_gap_BT = np.zeros((2, size, length), np.int64)
        np.put_along_axis(begins_span_BT, starts_BC, 1, axis=1)
        np.put_along_axis(begins_gap_BT, starts_BC - gaps_BC, 1, axis=1)
        spans_so_far_BT, gaps_so_far_BT = (
            np.cumsum(begins, axis=1) for begins in (begins_span_BT, begins_gap_BT)
        )
        noise_BT = spans_so_far_BT == gaps_so_far_BT
        sentinels = np.array(self.sentinels)
        source_BT = np.where(begins_span_BT, sentinels[spans_so_far_BT - 1], tokens_BT)
        target_BT = np.where(begins_gap_BT, sentinels[gaps_so_far_BT - 1], tokens_BT)
        source_BS = source_BT[~noise_BT | (begins_span_BT > 0)].reshape(size, -1)
        target_BR = target_BT[noise_BT | (begins_gap_BT > 0)].reshape(size, -1)
        last_B1 = np.full((size, 1), self.sentinels[count], np.int64)
        return source_BS, np.concatenate([target_BR, last_B1], axis=1)


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
