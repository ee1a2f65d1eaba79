"""Multi-token prediction (DeepSeek-V3, 2412.19437, section 2.2): modules that look further ahead.

    h'^k_i = M_k [norm(h^{k-1}_i); norm(Emb(t_{i+k}))],   h^k = layer_k(h'^k)

predicts t_{i+k+1} with the model's own embedding and head, and h^0 is the stream that its head
reads (after the last norm, which the module's own undoes but for its weights). They serve training
alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
    """Nats summed over the weighed targets of each depth, a mean over the depths, and what the
    layers report as `name/ahead.1`. Equation 24 divides by the tokens of the rows, as the loss of
    the next token does.

    Targets of `x_BTD` are the next tokens. Where the token ahead lies beyond the row or in another
    document nothing counts; rows keep their length all the same, as Megatron-LM's do.
    """
    if weights_BT is None:
        weights_BT = torch.ones_like(targets_BT, dtype=torch.float32)
    slices, length = model.slices, x_BTD.shape[1]
    offset = 0 if slices is None else slices.rank * length
    given = (targets_BT, weights_BT, segments_BT)
    targets_BS, weights_BS, segments_BS = (
        part if slices is None or part is None else slices.gather(part) for part in given
    )
    assert targets_BS is not None
    assert weights_BS is not None

    def later(row_BS: Tensor, k: int) -> Tensor:
        """Of each position here what is k positions later in its row; beyond the end 0."""
        return F.pad(row_BS, (0, k))[:, offset + k : offset + k + length]

    context = Context(segments_BT, positions_BT, offset=offset, slices=slices)
    context.meet()
    found: list[Tensor] = []
    aux: Aux = {}
    for k, module in enumerate(model.ahead, 1):
        known_BTD = model.vectors(later(targets_BS, k - 1))
        x_BTD, read_BTD, reported = module(x_BTD, known_BTD, context)
        aux |= {f"{name}/ahead.{k}": value for name, value in reported.items()}
        weights = later(weights_BS, k)
        if segments_BS is not None:
            weights = weights * (later(segments_BS, k) == later(segments_BS, 0))
        parts = cross_entropy(model.logits(read_BTD), later(targets_BS, k), weights)
        found.append(parts.total * parts.weight)
    return torch.stack(found).mean(), aux
