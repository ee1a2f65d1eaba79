"""Model and loss as one module, so that DeepSpeed's hooks see the whole forward pass."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data.batch import Batch
from models.loss import cross_entropy
from models.model import Model

Fed = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


class Losses(NamedTuple):
    """Of one micro-batch: `total` is what to differentiate and `nats` the plain negative log
    likelihood, both summed over the weighted tokens; `balance` is the weighted sum of the
    auxiliary losses, a mean over the micro-batch. `reported` are those and the load, unweighted.
    """

    total: Tensor
    nats: Tensor
    balance: Tensor | None
    reported: dict[str, Tensor]

    def objective(self, share: float) -> Tensor:
        """`share`: the micro-batch's size over its tokens' weight, so that ranks' means add up."""
        objective = self.total * share
        return objective if self.balance is None else objective + self.balance


class Objective(nn.Module):
    def __init__(self, model: Model, *, label_smoothing: float, z_loss: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        weights_BT: Tensor,
        segments_BT: Tensor | None,
        positions_BT: Tensor | None,
    ) -> Losses:
        out = self.model.run(tokens_BT, segments_BT=segments_BT, positions_BT=positions_BT)
        parts = cross_entropy(out.logits, targets_BT, weights_BT, self.label_smoothing, self.z_loss)
        weighed = [out.aux[name] * weight for name, weight in self.model.aux_weights.items()]
        return Losses(
            total=parts.total * parts.weight,
            nats=parts.nats.detach() * parts.weight,
            balance=torch.stack(weighed).sum() if weighed else None,
            reported={name: value.detach() for name, value in out.aux.items()},
        )


def recompute_layers(model: Model) -> None:
    """Keep each layer's input alone for the backward pass, and compute the layer again there."""
    for layer in model.layers:
        forward = partial(checkpoint, layer.forward, use_reentrant=False)
        layer.forward = forward


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
    )
