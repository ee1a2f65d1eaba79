"""The recurrent cells against torch's own, and what truncation cuts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.branch import Frame
from models.context import Context
from models.mixers.bidirectional import Bidirectional
from models.mixers.recurrent import Recurrent

FRAME = Frame(width=6, n_layers=1, n_branches=1)


def branch(**options: Any) -> Recurrent:
    made = Recurrent(FRAME, hidden=5, **options).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=generator)
    return made


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_equals_torchs_cell(cell: str) -> None:
    ours = branch(cell=cell)
    theirs = getattr(torch.nn, cell.upper())(6, 5, batch_first=True).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.into.weight)
        theirs.weight_hh_l0.copy_(ours.again.weight)
        theirs.bias_ih_l0.copy_(ours.into.bias)
        theirs.bias_hh_l0.copy_(ours.again.bias if ours.again.bias is not None else 0.0)
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x, Context()), ours.out(theirs(x)[0]))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_both_directions_equal_torchs(cell: str) -> None:
    ours = Bidirectional(FRAME, cell=cell, hidden=5).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(generator=generator)
    theirs = getattr(torch.nn, cell.upper())(6, 5, batch_first=True, bidirectional=True).double()
    for side, suffix in ((ours.left, "l0"), (ours.right, "l0_reverse")):
        given = {"weight_ih": side.into.weight, "weight_hh": side.again.weight}
        given["bias_ih"] = side.into.bias
        given["bias_hh"] = torch.zeros(()) if side.again.bias is None else side.again.bias
        with torch.no_grad():
            for name, value in given.items():
                getattr(theirs, f"{name}_{suffix}").copy_(value)
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    left, right = theirs(x)[0].chunk(2, -1)
    expected = ours.left.out(left) + ours.right.out(right)
    torch.testing.assert_close(ours(x, Context()), expected)


def test_truncation_cuts_gradients_and_not_values() -> None:
    full, cut = branch(cell="lstm"), branch(cell="lstm", truncate=3)
    x = torch.randn(1, 7, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(cut(x, Context()), full(x, Context()))
    reach = torch.autograd.grad(cut(x, Context())[0, 5].sum(), x)[0].abs().sum(-1)[0]
    assert (reach[:3] == 0).all()
    assert (reach[3:6] > 0).all()
