"""Multi-token prediction (DeepSeek-V3, 2412.19437, section 2.2): modules that look further ahead.

    h'^k_i = M_k [norm(h^{k-1}_i); norm(Emb(t_{i+k}))],   h^k = layer_k(h'^k)

predicts t_{i+k+1} with the model's own embedding and head, and h^0 is the stream that its head
reads (after the last norm, which the module's own undoes but for its weights). They serve training
alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.branch import Aux
from models.context import Context
from models.linear import Linear
from models.loss import cross_entropy
from models.model import Model
from models.residual import Layer


class Ahead(nn.Module):
    """The module of one depth: two norms, a projection, one layer, the norm before the head."""

    def __init__(
        self, width: int, layer: Layer, norms: tuple[nn.Module, nn.Module, nn.Module]
    ) -> None:
        super().__init__()
        self.stream_norm, self.token_norm, self.final_norm = norms
        self.project = Linear(2 * width, width)
        self.layer = layer

    def forward(
        self, x_BTD: Tensor, next_BTD: Tensor, context: Context
    ) -> tuple[Tensor, Tensor, Aux]:
        """The stream one token further, before and after the last norm."""
        parts = [self.stream_norm(x_BTD), self.token_norm(next_BTD)]
        x_BTD, aux = self.layer(self.project(torch.cat(parts, -1)), context)
        return x_BTD, self.final_norm(x_BTD), aux


def ahead_loss(
    model: Model,
    x_BTD: Tensor,
    targets_BT: Tensor,
    weights_BT: Tensor | None = None,
    segments_BT: Tensor | None = None,
    positions_BT: Tensor | None = None,
) -> tuple[Tensor, Aux]:
    """Mean over the depths of the nats per token, and what the layers report as `name/ahead.1`.

    Targets of `x_BTD` are the next tokens; where the token ahead lies beyond the row or in another
    document nothing counts.
    """
    if weights_BT is None:
        weights_BT = torch.ones_like(targets_BT, dtype=torch.float32)
    found: list[Tensor] = []
    aux: Aux = {}
    for k, module in enumerate(model.ahead, 1):
        left = targets_BT.shape[1] - k
        if left < 1:
            break
        segments, positions = (
            None if given is None else given[:, :left] for given in (segments_BT, positions_BT)
        )
        known_BT = targets_BT[:, k - 1 : k - 1 + left]
        x_BTD, read_BTD, reported = module(
            x_BTD[:, :left], model.vectors(known_BT), Context(segments, positions)
        )
        aux |= {f"{name}/ahead.{k}": value for name, value in reported.items()}
        weights = weights_BT[:, k:]
        if segments_BT is not None:
            weights = weights * (segments_BT[:, k:] == segments_BT[:, :left])
        found.append(cross_entropy(model.logits(read_BTD), targets_BT[:, k:], weights).total)
    return torch.stack(found).mean() if found else x_BTD.new_zeros(()), aux
