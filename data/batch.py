"""What a training step is fed. NumPy only; B sequences, T positions."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """`targets_BT` are to be predicted at each position and count by `weights_BT`.

    With packed documents, `segments_BT` numbers the document of each position within its row and
    `positions_BT` counts from 0 in each; None means that the whole row is one context. `sources_BS`
    is what the encoder of an encoder-decoder reads.
    """

    tokens_BT: np.ndarray  # int64
    targets_BT: np.ndarray  # int64
    weights_BT: np.ndarray  # float32
    segments_BT: np.ndarray | None = None  # int32
    positions_BT: np.ndarray | None = None  # int32
    sources_BS: np.ndarray | None = None  # int64


def document_layout(tokens_BT: np.ndarray, end_of_document: int) -> tuple[np.ndarray, np.ndarray]:
    """Segments and positions of concatenated documents.

    An end of document, as an input, opens the next document: it is what that document's first
    token is predicted from. As a target it closes its own. So every token is predicted from its
    own document.
    """
    starts_BT = tokens_BT == end_of_document
    segments_BT = np.cumsum(starts_BT, axis=1, dtype=np.int32)
    index_T = np.arange(tokens_BT.shape[1], dtype=np.int32)
    latest_BT = np.maximum.accumulate(np.where(starts_BT, index_T, 0), axis=1)
    return segments_BT, (index_T - latest_BT).astype(np.int32)


def causal(windows_BW: np.ndarray, end_of_document: int | None = None) -> Batch:
    """Each token predicts the next: windows (B, T + 1) to a batch of (B, T), without copying.

    With `end_of_document`, documents are kept apart by segments and positions.
    """
    tokens_BT, targets_BT = windows_BW[:, :-1], windows_BW[:, 1:]
    weights_BT = np.ones(targets_BT.shape, np.float32)
    if end_of_document is None:
        return Batch(tokens_BT, targets_BT, weights_BT)
    return Batch(tokens_BT, targets_BT, weights_BT, *document_layout(tokens_BT, end_of_document))


def rank_rows(batch_size: int, rank: int, world: int) -> range:
    """The rows of a global batch that fall to a rank: contiguous, even to within one."""
    if not 0 <= rank < world:
        raise IndexError(f"rank {rank} is not in a world of {world}")
    return range(rank * batch_size // world, (rank + 1) * batch_size // world)
