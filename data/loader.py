"""Any rank's batch, computed from the step alone: the whole state of a loader is one integer."""

from collections.abc import Callable
from dataclasses import fields
from typing import Literal, NamedTuple, Protocol

import numpy as np

from data.batch import Batch, causal, rank_rows
from data.errors import DataError
from data.heldout import Heldout
from data.mixture import Blend, Mixture, Part
from data.order import Indices, Order, Permutation, key_of
from data.packing import PackedStore
from data.store import TokenStore

Objective = Callable[[Batch, Indices], Batch]
Packing = Literal["concatenate", "best-fit"]


class Exposure(NamedTuple):
    """What some steps have seen of a source: tokens, of which unique, in how many epochs."""

    name: str
    tokens: int
    unique_tokens: int
    epochs: float


class _Source(Protocol):
    """Sequences that are read by number. `tokens` are the targets in all of them together."""

    n_sequences: int
    tokens: int
    fingerprint: str

    def read(self, sequences: Indices) -> Batch: ...


class Loader:
    """Training batches: the store's tokens in windows of `order_length` (by default, one sequence),
    each window once before any comes again, in an order that depends on (seed, store) alone.

    `batch_size` is the number of sequences in an optimizer step over all ranks. `objective` maps a
    causal batch and its sample numbers to another batch (`data.objectives`). `separate_documents`
    adds segments and positions that keep documents apart. `packing` is either the plain stream,
    where each token but the first is the target of one window, or whole documents packed without
    cutting any that fits (`data.packing`), which always keeps them apart. A `Mixture` interleaves
    several stores by weight. Only `unique_tokens` are read, if given, of each source its share of
    them by weight, so that all of them come again together: a random sample of its sequences, the
    same for every seed, and part of every larger sample.
    """

    def __init__(
        self,
        store: TokenStore | Mixture,
        sequence_length: int,
        batch_size: int,
        seed: int,
        objective: Objective | None = None,
        separate_documents: bool = False,
        packing: Packing = "concatenate",
        order_length: int | None = None,
        unique_tokens: int | None = None,
    ) -> None:
        mixture = store if isinstance(store, Mixture) else Mixture((Part("all", store),))
        self.parts = mixture.parts
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.order_length = order_length or sequence_length
        self._arguments = (store, seed, objective, separate_documents, packing)
        self._objective = objective
        self._first_step, self._first_sequence = 0, 0
        self._per_window = _whole(self.order_length, sequence_length, "order_length")
        if packing == "best-fit" and self._per_window > 1:
            raise DataError("best-fit packing has no order_length of its own", ("order_length",))
        self._sources: list[_Source] = [
            PackedStore(part.store, sequence_length)
            if packing == "best-fit"
            else _Windows(part.store, self.order_length, sequence_length, separate_documents)
            for part in self.parts
        ]
        if unique_tokens is not None:
            if self._per_window > 1:
                raise DataError("unique_tokens has no order_length of its own", ("order_length",))
            self._sources = [
                _Sample(source, part.name, round(unique_tokens * share), sequence_length)
                for source, part, share in zip(
                    self._sources, mixture.parts, mixture.shares, strict=True
                )
            ]
        windows = [source.n_sequences // self._per_window for source in self._sources]
        self._orders = [
            Order(count, seed, source.fingerprint)
            for count, source in zip(windows, self._sources, strict=True)
        ]
        self._blend = Blend(
            [part.weight for part in self.parts],
            [
                None if part.max_epochs is None else int(part.max_epochs * count)
                for part, count in zip(self.parts, windows, strict=True)
            ],
        )

    @property
    def n_samples(self) -> int:
        """Sequences in one pass over every source."""
        return sum(source.n_sequences for source in self._sources)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of optimizer step `step` (from 0) that fall to `rank`."""
        rows = rank_rows(self.batch_size, rank, world)
        samples = self.samples(step) + np.arange(rows.start, rows.stop, dtype=np.int64)
        windows, parts = np.divmod(samples, self._per_window)
        chosen, numbers = self._blend.locate(windows)
        batches = []
        for number, (source, order) in enumerate(zip(self._sources, self._orders, strict=True)):
            own = np.flatnonzero(chosen == number)
            if own.size or len(self._sources) == 1:
                sequences = order(numbers[own]) * self._per_window + parts[own]
                batches.append((own, source.read(sequences)))
        batch = batches[0][1] if len(batches) == 1 else _interleave(batches, len(samples))
        return batch if self._objective is None else self._objective(batch, samples)

    def samples(self, step: int) -> int:
        """Sequences that the steps before `step` consume."""
        return self._first_sequence + (step - self._first_step) * self.batch_size

    def switched(self, step: int, sequence_length: int, batch_size: int) -> "Loader":
        """This loader with another shape from optimizer step `step` on.

        Tokens go on in the same order where they stopped, none twice and none left out: the shape
        only says how that stream is cut. Needs an `order_length` that both lengths divide.
        """
        store, seed, objective, separate, packing = self._arguments
        loader = Loader(
            store,
            sequence_length,
            batch_size,
            seed,
            objective,
            separate,
            packing,
            self.order_length,
        )
        tokens = self.samples(step) * self.sequence_length
        loader._first_step = step
        loader._first_sequence = _whole(tokens, sequence_length, "sequence_length")
        return loader

    def exposures(self, step: int) -> tuple[Exposure, ...]:
        """What `step` optimizer steps have seen of each source."""
        windows, rest = divmod(self.samples(step), self._per_window)
        counts = [count * self._per_window for count in self._blend.counts(windows)]
        if rest:
            (begun,), _ = self._blend.locate(np.array([windows]))
            counts[begun] += rest
        return tuple(
            _exposure(part.name, count / source.n_sequences, source.tokens)
            for part, count, source in zip(self.parts, counts, self._sources, strict=True)
        )

    def epochs(self, step: int) -> float:
        """Passes over the data, all sources together, that `step` optimizer steps make."""
        return self.samples(step) / self.n_samples

    def unique_tokens(self, step: int) -> int:
        """Different tokens that were targets in `step` optimizer steps."""
        return sum(exposure.unique_tokens for exposure in self.exposures(step))

    heldout = Heldout


class _Windows:
    """The stream of documents cut into sequences: number i reads the tokens [i*T, i*T + T]. What is
    left after the last whole window of `order_length` is not read."""

    def __init__(
        self, store: TokenStore, order_length: int, sequence_length: int, separate: bool
    ) -> None:
        self.store = store
        self.fingerprint = store.fingerprint
        windows = (store.n_tokens - 1) // order_length
        self.n_sequences = windows * order_length // sequence_length
        self.tokens = windows * order_length
        self._sequence_length = sequence_length
        self._end = store.end_of_document if separate else None
        if windows < 1:
            raise DataError(
                f"{store.folder} has {store.n_tokens} tokens: too few for one sequence of "
                f"{order_length} and its next token",
                ("sequence_length",),
            )

    def read(self, sequences: Indices) -> Batch:
        starts = sequences * self._sequence_length
        windows_BW = self.store.gather(starts, self._sequence_length + 1)
        return causal(windows_BW.astype(np.int64), self._end)


class _Sample:
    """A random part of a source, `tokens` of it rounded down to whole sequences."""

    def __init__(self, source: _Source, name: str, tokens: int, sequence_length: int) -> None:
        self.n_sequences = min(tokens // sequence_length, source.n_sequences)
        most = (source.n_sequences + 1) * sequence_length  # not all of the last one may be there
        if not sequence_length <= tokens <= most:
            raise DataError(
                f"given {tokens} unique tokens of {name}; allowed: {sequence_length} to "
                f"{most - sequence_length}",
                ("unique_tokens",),
            )
        self.tokens = round(source.tokens * self.n_sequences / source.n_sequences)
        self.fingerprint = source.fingerprint
        self._source = source
        self._pick = Permutation(source.n_sequences, key_of("sample", source.fingerprint))

    def read(self, sequences: Indices) -> Batch:
        return self._source.read(self._pick(sequences))


def _interleave(batches: list[tuple[Indices, Batch]], size: int) -> Batch:
    """One batch of rows that several sources contribute."""
    arrays = {}
    for field in fields(Batch):
        pieces = [getattr(batch, field.name) for _, batch in batches]
        if pieces[0] is not None:
            whole = np.empty((size, *pieces[0].shape[1:]), pieces[0].dtype)
            for (rows, _), piece in zip(batches, pieces, strict=True):
                whole[rows] = piece
            arrays[field.name] = whole
    return Batch(**arrays)


def _exposure(name: str, epochs: float, tokens: int) -> Exposure:
    return Exposure(name, round(epochs * tokens), round(min(epochs, 1) * tokens), epochs)


def _whole(total: int, part: int, key: str) -> int:
    count, rest = divmod(total, part)
    if rest or (not count and key == "order_length"):
        raise DataError(f"{total} tokens are no whole number of sequences of {part}", (key,))
    return count
