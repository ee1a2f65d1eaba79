"""Multi-token prediction: what the modules beside the model learn, and that only training has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import Model, Recipe
from models.ahead import ahead_loss
from models.context import Context
from models.loss import cross_entropy
from models.training import losses


@pytest.fixture
def model(zoo: Any) -> Model:
    """LLaMA with two modules."""
    options = zoo.recipe_dict("llama") | {"objective": {"type": "multi_token", "depth": 2}}
    config = Recipe.from_dict(options).at(width=32, n_layers=2, vocab_size=zoo.vocab)
    model: Model = zoo.randomized(config)
    return model


def loss_of(model: Model, text: torch.Tensor, **more: Any) -> torch.Tensor:
    stream = model.run(text[:, :-1], **more).stream_BTD
    assert stream is not None
    given = (more.get("segments_BT"), more.get("positions_BT"))
    return ahead_loss(model, stream, text[:, 1:], None, *given)[0]


def test_a_module_reads_one_token_and_predicts_the_next(zoo: Any, model: Model) -> None:
    """The last token of all is a target alone, and of the last depth's last position alone."""
    text = zoo.tokens(1, 9)
    other = text.clone()
    other[0, -1] = (other[0, -1] + 1) % zoo.vocab
    out = model.run(text[:, :-1])
    assert out.stream_BTD is not None
    x_BTD, difference = out.stream_BTD, torch.zeros((), dtype=torch.float64)
    for k, module in enumerate(model.ahead, 1):
        known = text[:, k : 9 - 1]
        x_BTD, read_BTD, _ = module(x_BTD[:, : 8 - k], model.vectors(known), Context())
        log_p = model.logits(read_BTD)[0, -1].log_softmax(-1)
        difference += (log_p[text[0, -1]] - log_p[other[0, -1]]) / 2
    torch.testing.assert_close(loss_of(model, other) - loss_of(model, text), difference.detach())


def test_documents_do_not_predict_each_other(zoo: Any, model: Model) -> None:
    """A packed row's loss is that of its documents."""
    lengths = (6, 11)
    texts = [zoo.tokens(1, n + 1, seed=n) for n in lengths]
    tokens, targets = (torch.cat([t[:, s] for t in texts], 1) for s in (slice(-1), slice(1, None)))
    segments = torch.cat([torch.full((1, n), i) for i, n in enumerate(lengths)], 1)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    out = model.run(tokens, segments_BT=segments, positions_BT=positions)
    assert out.stream_BTD is not None
    packed, _ = ahead_loss(model, out.stream_BTD, targets, None, segments, positions)
    model.ahead = model.ahead[:1]
    first, _ = ahead_loss(model, out.stream_BTD, targets, None, segments, positions)
    alone = [loss_of(model, text) for text in texts]
    torch.testing.assert_close(first, alone[0] + alone[1])
    assert packed != first


def test_evaluation_is_of_the_next_token_alone(zoo: Any, model: Model) -> None:
    x = zoo.tokens(2, 8)
    trained = losses(model, x, x.roll(-1, 1))
    further = trained.total - trained.parts.total
    torch.testing.assert_close(further, 0.3 * trained.aux["further"])
    tested = losses(model.eval(), x, x.roll(-1, 1))
    assert tested.further is None
    assert tested.total == cross_entropy(model(x), x.roll(-1, 1)).total
