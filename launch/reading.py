"""What a run reads: this rank's batches by step, and the held-out ones."""

from collections.abc import Generator, Iterator
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.batch import Batch
from data.heldout import Heldout
from data.loader import Loader
from data.mixture import Mixture
from data.prefetch import prefetch
from launch.config import RunConfig
from launch.objective import transform
from launch.ranks import Ranks
from models import ModelConfig

Fed = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]


class Judge(NamedTuple):
    """What a model is judged by: a part of the mixture that it is trained on, and its share."""

    name: str
    share: float
    heldout: Heldout


class Reader:
    """Training and held-out batches, as the objective of the model's recipe wants them."""

    def __init__(self, config: RunConfig, model: ModelConfig, ranks: Ranks) -> None:
        data, size = config.data, config.parallel.sequence_parallel
        model.check_length(data.sequence_length)
        self._steps, self._device = config.train.steps, ranks.device
        self._rows = ranks.rank // size, ranks.world // size
        self._slice = ranks.rank % size, size
        stored, heldout = Mixture.open(data.train), Mixture.open(data.heldout)
        self._loader = Loader(
            stored,
            data.sequence_length,
            data.batch_size,
            data.seed,
            transform(model, stored, data.seed),
            separate_documents=data.separate_documents,
            packing=data.packing,
            unique_tokens=data.unique_tokens,
        )
        self.judges = [
            Judge(
                part.name,
                share,
                Heldout(
                    part.store,
                    data.sequence_length,
                    data.batch_size,
                    data.eval_tokens and max(1, round(share * data.eval_tokens)),
                    data.separate_documents or data.packing == "best-fit",
                    transform(model, heldout, seed=0),
                ),
            )
            for part, share in zip(heldout.parts, heldout.shares, strict=True)
        ]

    def batches(self, first: int) -> Generator[Batch]:
        """Those of the steps from `first` on. While a GPU computes, a thread makes the next ones; a
        CPU would only compute less meanwhile."""

        def batch(step: int) -> Batch:
            return cut(self._loader.batch(step, *self._rows), *self._slice)

        ahead = 2 if self._device.type == "cuda" else 0
        yield from prefetch(batch, range(first, self._steps), ahead)

    def heldout(self, judge: Judge) -> Iterator[Batch]:
        """All that a judge asks of this rank."""
        return (cut(batch, *self._slice) for batch in judge.heldout.batches(*self._rows))


def cut(batch: Batch, part: int, parts: int) -> Batch:
    """One of so many equally long slices of each row."""
    if parts == 1:
        return batch
    length = batch.tokens_BT.shape[1] // parts
    own = slice(part * length, (part + 1) * length)
    given = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(
        batch, **{name: rows[:, own] for name, rows in given.items() if rows is not None}
    )


def feed(batch: Batch, rows: slice, device: torch.device) -> Fed:
    """Rows of a batch as tensors: views on a CPU, copies that do not wait on a GPU."""

    def tensor(array_BT: np.ndarray) -> Tensor:
        host = torch.from_numpy(array_BT[rows])
        return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)

    return (
        tensor(batch.tokens_BT),
        tensor(batch.targets_BT),
        tensor(batch.weights_BT),
        None if batch.segments_BT is None else tensor(batch.segments_BT),
        None if batch.positions_BT is None else tensor(batch.positions_BT),
        None if batch.sources_BS is None else tensor(batch.sources_BS),
    )
