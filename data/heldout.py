"""Evaluation batches over a fixed set of tokens."""

from collections.abc import Callable, Iterator

import numpy as np

from data.batch import Batch, causal, rank_rows
from data.store import TokenStore


class Heldout:
    """Each of the first `n_tokens` tokens of a store is a target once, whatever the shape.

    The first token is predicted from an end of document; the last rows are padded with weight 0.
    `objective` makes of these batches what is evaluated, by the number of each row. Every rank gets
    the same number of batches, so that collective operations match.
    """

    def __init__(
        self,
        store: TokenStore,
        sequence_length: int,
        batch_size: int,
        max_tokens: int | None = None,
        separate_documents: bool = False,
        objective: Callable[[Batch, np.ndarray], Batch] | None = None,
    ) -> None:
        self.store = store
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.n_tokens = min(store.n_tokens, max_tokens or store.n_tokens)
        self.n_batches = -(-self.n_tokens // (sequence_length * batch_size))
        self._objective = objective
        self._end = store.end_of_document if separate_documents else None

    def batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        rows = np.array(rank_rows(self.batch_size, rank, world), np.int64)
        for number in range(self.n_batches):
            samples_B = number * self.batch_size + rows
            starts_B = samples_B * self.sequence_length
            batch = causal(self._windows(starts_B), self._end)
            index_BT = starts_B[:, None] + np.arange(self.sequence_length)
            batch.weights_BT[index_BT >= self.n_tokens] = 0
            yield batch if self._objective is None else self._objective(batch, samples_B)

    def _windows(self, starts_B: np.ndarray) -> np.ndarray:
        """Targets [start, start + T) and the token before them, padded with ends of documents."""
        shape = (len(starts_B), self.sequence_length + 1)
        windows_BW = np.full(shape, self.store.end_of_document, np.int64)
        for window, start in zip(windows_BW, starts_B.tolist(), strict=True):
            low, high = max(start - 1, 0), min(start + self.sequence_length, self.n_tokens)
            if low < high:
                at = low - (start - 1)
                window[at : at + high - low] = self.store.window(low, high - low)
        return windows_BW
