"""The pattern language: layers separated by blanks, `+` joins branches, `&name` shares weights."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import Key, RecipeError


@dataclass(frozen=True)
class Use:
    """One use of a branch in a layer; all shared uses of a name are one set of weights."""

    name: str
    shared: bool = False


Layer = tuple[Use, ...]


def parse(pattern: str, key: Key = ("pattern",)) -> tuple[Layer, ...]:
    """`"mamba mamba+&attention+&mlp"` to two layers of one and three uses."""
    layers = tuple(tuple(_use(word, key) for word in layer.split("+")) for layer in pattern.split())
    if not layers and key[-1] != "prefix":
        raise RecipeError(key, pattern, "layers of branches such as attention+mlp", "names nothing")
    return layers


def tile(
    layers: tuple[Layer, ...], n_layers: int, prefix: tuple[Layer, ...] = ()
) -> tuple[Layer, ...]:
    """`prefix`, then the pattern repeated to `n_layers` in all, which it must fit."""
    period, first = len(layers), len(prefix)
    n_tiled = n_layers - first
    if n_tiled < 1 or n_tiled % period:
        below = n_tiled // period * period
        near = [first + n for n in (below, below + period) if n > 0]
        raise RecipeError(
            ("n_layers",),
            n_layers,
            (f"{first} plus " if first else "")
            + f"multiples of the pattern's {period} layers, such as {' or '.join(map(str, near))}",
            "does not tile the pattern",
        )
    return prefix + layers * (n_tiled // period)


def _use(word: str, key: Key) -> Use:
    name = word.removeprefix("&")
    if not name.isidentifier():
        raise RecipeError(key, word, "name or &name, joined by +", "not a branch")
    return Use(name, shared=word.startswith("&"))
