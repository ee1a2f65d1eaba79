"""Any rank's batch, computed from the step alone: the whole state of a loader is one integer."""

from collections.abc import Callable, Iterator

import numpy as np

from data.batch import Batch, document_layout
from data.errors import DataError
from data.order import Order
from data.store import TokenStore

Objective = Callable[[np.ndarray, np.ndarray], Batch]


def rank_rows(batch_size: int, rank: int, world: int) -> range:
    """The rows of a global batch that fall to a rank: contiguous, even to within one."""
    if not 0 <= rank < world:
        raise IndexError(f"rank {rank} is not in a world of {world}")
    return range(rank * batch_size // world, (rank + 1) * batch_size // world)


class Loader:
    """Training batches over a store's tokens as one stream, cut into windows of `sequence_length`.

    Window i reads tokens [i*T, i*T + T], so that each token but the first is the target of one
    window. Windows come in the order of `data.order.Order`, all of them before any again.
    `batch_size` is the number of sequences in an optimizer step over all ranks. `objective` maps
    windows (B, T+1) and their sample positions (B,) to a `Batch`; without one, each token predicts
    the next. `separate_documents` adds the segments and positions that keep documents apart.
    """

    def __init__(
        self,
        store: TokenStore,
        sequence_length: int,
        batch_size: int,
        seed: int,
        objective: Objective | None = None,
        separate_documents: bool = False,
    ) -> None:
        self.store = store
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.n_samples = (store.n_tokens - 1) // sequence_length
        if self.n_samples < 1:
            raise DataError(
                f"{store.folder} has {store.n_tokens} tokens: too few for one sequence of "
                f"{sequence_length} and its next token",
                ("sequence_length",),
            )
        self.order = Order(self.n_samples, seed, store.fingerprint)
        self._end = store.end_of_document if separate_documents else None
        self._objective = objective or (lambda windows, _: causal(windows, self._end))

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of optimizer step `step` (from 0) that fall to `rank`."""
        rows = rank_rows(self.batch_size, rank, world)
        positions = step * self.batch_size + np.arange(rows.start, rows.stop, dtype=np.int64)
        windows = np.empty((len(rows), self.sequence_length + 1), np.int64)
        self.store.gather(self.order(positions) * self.sequence_length, windows)
        return self._objective(windows, positions)

    def epochs(self, step: int) -> float:
        """Passes over the data that `step` optimizer steps make."""
        return step * self.batch_size / self.n_samples

    def unique_tokens(self, step: int) -> int:
        """Different tokens that were targets in `step` optimizer steps."""
        return min(step * self.batch_size, self.n_samples) * self.sequence_length

    @staticmethod
    def heldout(
        store: TokenStore,
        sequence_length: int,
        batch_size: int,
        max_tokens: int | None = None,
        separate_documents: bool = False,
    ) -> "Heldout":
        return Heldout(store, sequence_length, batch_size, max_tokens, separate_documents)


class Heldout:
    """Evaluation batches: each of the first `n_tokens` tokens is a target once, whatever the shape.

    The first token is predicted from an end of document; the last rows are padded with weight 0.
    Every rank gets the same number of batches, so that collective operations match.
    """

    def __init__(
        self,
        store: TokenStore,
        sequence_length: int,
        batch_size: int,
        max_tokens: int | None = None,
        separate_documents: bool = False,
    ) -> None:
        self.store = store
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.n_tokens = min(store.n_tokens, max_tokens or store.n_tokens)
        self.n_batches = -(-self.n_tokens // (sequence_length * batch_size))
        self._end = store.end_of_document if separate_documents else None

    def batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        for number in range(self.n_batches):
            rows = rank_rows(self.batch_size, rank, world)
            first = (number * self.batch_size + np.array(rows, np.int64)) * self.sequence_length
            batch = causal(np.stack([self._window(start) for start in first.tolist()]), self._end)
            index_BT = first[:, None] + np.arange(self.sequence_length)
            batch.weights_BT[index_BT >= self.n_tokens] = 0
            yield batch

    def _window(self, start: int) -> np.ndarray:
        """Targets [start, start + T) after the token before them, padded with ends of documents."""
        window = np.full(self.sequence_length + 1, self.store.end_of_document, np.int64)
        low, high = max(start - 1, 0), min(start + self.sequence_length, self.n_tokens)
        if low < high:
            at = low - (start - 1)
            window[at : at + high - low] = self.store.window(low, high - low)
        return window


def causal(windows: np.ndarray, end_of_document: int | None = None) -> Batch:
    """Each token predicts the next: windows (B, T+1) to a batch of (B, T), without copying."""
    tokens_BT, targets_BT = windows[:, :-1], windows[:, 1:]
    weights_BT = np.ones(targets_BT.shape, np.float32)
    if end_of_document is None:
        return Batch(tokens_BT, targets_BT, weights_BT)
    return Batch(tokens_BT, targets_BT, weights_BT, *document_layout(tokens_BT, end_of_document))
