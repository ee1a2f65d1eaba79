"""How one of our parameters is made of theirs, and theirs of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """`join` makes our tensor of theirs, `split` is its inverse. A `piece` is ours of one of theirs
    that stacks several; rules of one stack follow each other."""

    ours: str
    theirs: tuple[str, ...]
    join: Callable[[list[Tensor]], Tensor]
    split: Callable[[Tensor], list[Tensor]]
    piece: bool = False


def same(ours: str, theirs: str) -> Rule:
    """The same tensor under another name."""
    return mapped(ours, theirs, lambda x: x, lambda x: x)


def mapped(
    ours: str, theirs: str, join: Callable[[Tensor], Tensor], split: Callable[[Tensor], Tensor]
) -> Rule:
    """One tensor, changed on the way."""
    return Rule(ours, (theirs,), lambda xs: join(xs[0]), lambda x: [split(x)])


def stacked(ours: Iterable[str], theirs: str) -> list[Rule]:
    """Tensors of their own here, one with a first axis more there."""

    def one(name: str, i: int) -> Rule:
        return Rule(name, (theirs,), lambda xs: xs[0][i], lambda x: [x[None]], piece=True)

    return [one(name, i) for i, name in enumerate(ours)]


def transposed(ours: str, theirs: str) -> Rule:
    """The last two axes exchanged."""
    return mapped(ours, theirs, lambda x: x.mT, lambda x: x.mT)


def plus_one(ours: str, theirs: str) -> Rule:
    """A norm whose weight is kept less one."""
    return mapped(ours, theirs, lambda x: x + 1, lambda x: x - 1)


def cat(ours: str, theirs: Iterable[str], sizes: Sequence[int] | None = None) -> Rule:
    """Theirs one after the other along the first axis; equal parts if no sizes are given."""
    names = tuple(theirs)
    return Rule(
        ours,
        names,
        lambda xs: torch.cat(xs),
        lambda x: list(
            torch.chunk(x, len(names)) if sizes is None else torch.split(x, list(sizes))
        ),
    )


def interleaved(ours: str, theirs: str, n_heads: int) -> Rule:
    """q, k and v of each head side by side there, all q, all k, all v here."""

    def join(x: Tensor) -> Tensor:
        return x.view(n_heads, 3, -1).transpose(0, 1).reshape(x.shape)

    def split(x: Tensor) -> Tensor:
        return x.view(3, n_heads, -1).transpose(0, 1).reshape(x.shape)

    return mapped(ours, theirs, join, split)


def halves(x: Tensor, n_heads: int, plain: int = 0) -> Tensor:
    """Rotary pairs half a head apart, of pairs side by side after `plain` rows of each head."""
    heads = x.view(n_heads, -1, *x.shape[1:])
    turned = heads[:, plain:]
    return torch.cat([heads[:, :plain], turned[:, 0::2], turned[:, 1::2]], 1).view(x.shape)


def pairs(x: Tensor, n_heads: int, plain: int = 0) -> Tensor:
    """The inverse of `halves`."""
    heads = x.view(n_heads, -1, *x.shape[1:])
    turned = torch.stack(torch.chunk(heads[:, plain:], 2, 1), 2).flatten(1, 2)
    return torch.cat([heads[:, :plain], turned], 1).view(x.shape)


def halved(ours: str, theirs: str, n_heads: int, plain: int = 0) -> Rule:
    """A projection to rotary heads whose pairs lie side by side there."""
    return mapped(
        ours, theirs, lambda x: halves(x, n_heads, plain), lambda x: pairs(x, n_heads, plain)
    )


def both(ours: str, theirs: str, make: Callable[[str, str], Rule] = same) -> list[Rule]:
    """A weight and its bias."""
    return [make(f"{ours}.{part}", f"{theirs}.{part}") for part in ("weight", "bias")]
