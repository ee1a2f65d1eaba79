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
    if not layers:
        raise RecipeError(key, pattern, "layers of branches such as attention+mlp", "names nothing")
    return layers


def tile(layers: tuple[Layer, ...], n_layers: int) -> tuple[Layer, ...]:
    """The pattern repeated to `n_layers`, which must be a multiple of its length."""
    period = len(layers)
    if n_layers < 1 or n_layers % period:
        below = n_layers // period * period
        near = [n for n in (below, below + period) if n > 0]
        raise RecipeError(
            ("n_layers",),
            n_layers,
            f"multiples of the pattern's {period} layers, such as {' or '.join(map(str, near))}",
            "does not tile the pattern",
        )
    return layers * (n_layers // period)


def _use(word: str, key: Key) -> Use:
    name = word.removeprefix("&")
    if not name.isidentifier():
        raise RecipeError(key, word, "name or &name, joined by +", "not a branch")
    return Use(name, shared=word.startswith("&"))
