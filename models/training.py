"""One forward pass of training, whatever the architecture and the objective."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.ahead import ahead_loss
from models.branch import Aux
from models.electra import forge
from models.loss import LossParts, cross_entropy
from models.model import Model


class Pass(NamedTuple):
    """`parts` are of the objective's targets; `further` are nats, summed over tokens, that count
    besides; `balance` is the weighted sum of the auxiliary losses, `aux` those and statistics as
    they are. Auxiliary losses are means over what was given here, a generator's over its hidden
    tokens: where a batch is cut up, parts with few of these weigh as much as parts with many."""

    parts: LossParts
    further: Tensor | None
    balance: Tensor | None
    aux: Aux

    @property
    def summed(self) -> Tensor:
        """Over tokens: what adds up over the parts of a batch."""
        total = self.parts.total * self.parts.weight
        return total if self.further is None else total + self.further

    @property
    def total(self) -> Tensor:
        """What to differentiate, of a batch that is given as a whole."""
        mean = self.summed / self.parts.weight.clamp(min=torch.finfo(torch.float32).tiny)
        return mean if self.balance is None else mean + self.balance


def losses(
    model: Model,
    tokens_BT: Tensor,
    targets_BT: Tensor,
    weights_BT: Tensor | None = None,
    *,
    sources_BS: Tensor | None = None,
    segments_BT: Tensor | None = None,
    positions_BT: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Pass:
    """`tokens_BT` are what the stack that leads to the logits reads; `sources_BS` an encoder's.

    With a generator the tokens are the text with masks in places and the targets the text: the
    targets of the model proper are made here. ELECTRA's sum of losses is divided by its λ, so that
    the loss that is reported is the model's own.
    """
    weighed = []
    forged = None
    if model.generator is not None:
        if weights_BT is None:
            weights_BT = torch.ones_like(targets_BT, dtype=torch.float32)
        forged = forge(model, tokens_BT, targets_BT, weights_BT, segments_BT, positions_BT)
        tokens_BT, targets_BT = forged.tokens_BT, forged.replaced_BT
        weighed.append(forged.loss / model.config.recipe.task.weight)
    if sources_BS is None:
        out = model.run(tokens_BT, segments_BT=segments_BT, positions_BT=positions_BT)
    else:
        out = model.run(sources_BS, decoder_tokens=tokens_BT)
    parts = cross_entropy(out.logits, targets_BT, weights_BT, label_smoothing, z_loss)
    weighed += [out.aux[name] * weight for name, weight in model.aux_weights.items()]
    aux = out.aux if forged is None else {**out.aux, "generator": forged.loss}
    further = None
    if len(model.ahead) and model.training:
        assert out.stream_BTD is not None
        nats, found = ahead_loss(
            model, out.stream_BTD, targets_BT, weights_BT, segments_BT, positions_BT
        )
        further = nats * model.config.recipe.task.weight
        weighed += [
            value * model.aux_weights[name.split("/")[0]] / len(model.ahead)
            for name, value in found.items()
            if name.split("/")[0] in model.aux_weights
        ]
        aux = {**aux, **found, "further": nats / parts.weight.clamp(min=1)}
    return Pass(parts, further, torch.stack(weighed).sum() if weighed else None, aux)


def blank(model: Model, batch_size: int, sequence_length: int) -> dict[str, Any]:
    """Inputs of `losses`, random tokens, as long as the objective makes them of rows of text."""
    source, length = model.config.recipe.task.lengths(sequence_length)
    n_tokens, place = model.config.vocab_size, model.embedding.weight.device
    is_binary = model.head.out_features == 1 and model.generator is None

    def draw(n: int, below: int = n_tokens) -> Tensor:
        return torch.randint(below, (batch_size, n), device=place)

    n = length if model.encoder is not None else source + length
    given = {"tokens_BT": draw(n), "targets_BT": draw(n, 2 if is_binary else n_tokens)}
    return given if model.encoder is None else {**given, "sources_BS": draw(source)}
