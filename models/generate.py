"""Decoding token by token, with the states of every branch kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from models.model import Model


@torch.no_grad()
def generate(
    model: Model,
    tokens: Sequence[int],
    *,
    start: int = 0,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """The tokens, without end, that a model goes on with; greedy at temperature 0.

    Of an encoder-decoder `tokens` are the source, and the target begins after `start`. ValueError
    if a position sees later ones.
    """
    device = model.embedding.weight.device
    given = torch.tensor([list(tokens)], device=device)
    is_pair = model.encoder is not None
    cache, fresh = model.new_cache(), torch.tensor([[start]], device=device) if is_pair else given
    while True:
        if is_pair:
            out = model.run(given, decoder_tokens=fresh, cache=cache)
        else:
            out = model.run(fresh, cache=cache)
        fresh = _choose(out.logits[0, -1], temperature, generator).view(1, 1)
        yield int(fresh)


def _choose(logits_V: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    if temperature == 0:
        return logits_V.argmax()
    return (logits_V / temperature).softmax(-1).multinomial(1, generator=generator)
