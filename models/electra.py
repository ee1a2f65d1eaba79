"""ELECTRA's generator at work (2003.10555, section 2): a masked model's samples stand in for the
hidden tokens, and the model proper says of each token whether it is the text's own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.loss import cross_entropy
from models.model import Model


class Forged(NamedTuple):
    """`loss` is the generator's, in nats per hidden token; `replaced_BT` are 0 and 1."""

    tokens_BT: Tensor
    replaced_BT: Tensor
    loss: Tensor


def forge(
    model: Model,
    hidden_BT: Tensor,
    tokens_BT: Tensor,
    weights_BT: Tensor,
    segments_BT: Tensor | None = None,
    positions_BT: Tensor | None = None,
) -> Forged:
    """`hidden_BT` are the text's `tokens_BT` with the mask (the vocabulary's last id) in places.

    No gradient goes through the samples; a sample that happens to be the text's own counts as such.
    """
    assert model.generator is not None
    is_hidden_BT = hidden_BT == model.config.vocab_size - 1
    out = model.generator.run(hidden_BT, segments_BT=segments_BT, positions_BT=positions_BT)
    loss = cross_entropy(out.logits, tokens_BT, weights_BT * is_hidden_BT).total
    with torch.no_grad():
        noise_BTV = torch.rand_like(out.logits, dtype=torch.float32).clamp(min=1e-20)
        sampled_BT = (out.logits - (-noise_BTV.log()).log()).argmax(-1)  # Gumbel's trick
    forged_BT = torch.where(is_hidden_BT, sampled_BT, tokens_BT)
    return Forged(forged_BT, (forged_BT != tokens_BT).long(), loss)
