"""Chunks and temperature of attention with packed documents and decoding; random features."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import Model, Recipe
from models.branch import Frame
from models.context import Context
from models.mixers.attention import Attention
from models.mixers.linear_attention import orthogonal_features

LENGTHS = (6, 11)


@pytest.fixture
def model(zoo: Any) -> Model:
    """Llama 4 with chunks, and steps of its temperature, shorter than the documents."""
    options = zoo.recipe_dict("llama4")
    options["branches"]["chunked"]["chunk"] = 4
    options["branches"]["attention"]["temperature_floor"] = 3
    config = Recipe.from_dict(options).at(width=32, n_layers=4, vocab_size=zoo.vocab)
    model: Model = zoo.randomized(config)
    return model


@pytest.mark.parametrize("more", [{}, {"softcap": 5.0}, {"window": 3}, {"stride": 2, "local": 2}])
@pytest.mark.parametrize("positions", ["none", "alibi"])
def test_packed_documents_have_global_positions_of_their_own(
    more: dict[str, Any], positions: str
) -> None:
    frame = Frame(width=16, n_layers=1, n_branches=1, positions={"type": positions})
    branch = Attention(frame, n_heads=4, n_kv_heads=2, n_global=2, **{"window": 2, **more}).double()
    for parameter in branch.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 13, 16, dtype=torch.float64)
    segments = torch.tensor([[0] * 6 + [1] * 7] * 2)
    at = torch.cat([torch.arange(6), torch.arange(7)]).expand(2, -1)
    packed = branch(x, Context(segments, at))
    alone = [branch(part, Context()) for part in (x[:, :6], x[:, 6:])]
    torch.testing.assert_close(packed, torch.cat(alone, 1))


def test_chunks_start_with_their_document(zoo: Any, model: Model) -> None:
    documents = [zoo.tokens(1, length, seed=length) for length in LENGTHS]
    segments = torch.cat([torch.full((1, n), i) for i, n in enumerate(LENGTHS)], 1)
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    packed = model(torch.cat(documents, 1), segments, positions)
    alone = torch.cat([model(document) for document in documents], 1)
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-9)


def test_decoding_forgets_a_chunk_that_is_over(zoo: Any, model: Model) -> None:
    tokens, cache = zoo.tokens(2, 11), model.new_cache()
    steps = [model.run(tokens[:, :3], cache=cache).logits]
    steps += [model.run(tokens[:, t : t + 1], cache=cache).logits for t in range(3, 11)]
    torch.testing.assert_close(torch.cat(steps, 1), model(tokens), rtol=1e-9, atol=1e-9)
    assert cache.slots[0][0]["k"].shape[1] == 11 % 4
    assert cache.slots[3][0]["k"].shape[1] == 11


def test_random_features_estimate_softmax_attention() -> None:
    """The more of them, the nearer; blocks of them are orthogonal."""
    generator = torch.Generator().manual_seed(0)
    omega = orthogonal_features(8, 20_000, generator)
    gram = omega[:, :8].T @ omega[:, :8]
    torch.testing.assert_close(gram - gram.diag().diag(), torch.zeros(8, 8), atol=1e-4, rtol=0)
    q, k = 0.5 * torch.randn(2, 5, 8, generator=generator)

    def features(x: torch.Tensor) -> torch.Tensor:
        x = x * 8**-0.25
        return (x @ omega - x.square().sum(-1, keepdim=True) / 2).exp()

    estimate = features(q) @ features(k).T / 20_000
    torch.testing.assert_close(estimate, (q @ k.T / 8**0.5).exp(), rtol=0.2, atol=0.05)
