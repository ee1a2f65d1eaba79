"""What a recipe is made of: its stacks, and how they are normed, started, sized and read out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from models import registry, schema
from models.errors import Key, RecipeError
from models.pattern import Layer, parse


@dataclass(frozen=True, kw_only=True)
class NormSpec:
    """`placement`: pre x+f(n(x)); post n(x+f(x)); peri x+n(f(n(x))); output x+n(f(x));
    parallel: the branches of a layer all read the layer's input, each through its own norm."""

    type: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    placement: Literal["pre", "post", "peri", "output", "parallel"] = "pre"
    eps: float = 1e-5
    bias: bool = True


@dataclass(frozen=True, kw_only=True)
class InitSpec:
    """See `models.init` for what the schemes are."""

    scheme: Literal["scaled", "fan_in", "mup"] = "scaled"
    std: float = 0.02
    embedding_std: float | None = None
    base_width: int = 64


@dataclass(frozen=True, kw_only=True)
class DepthSpec:
    """The ladder's aspect rule: n_layers ≈ coefficient · width^exponent (`models.size`)."""

    coefficient: float = 0.5
    exponent: float = 0.5


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What stands before the logits. transform: a dense layer to the embedding's width and this
    activation, and with `norm` a LayerNorm (BERT's). bias: on the logits. scaled: the stream is
    divided by √width (T5's tied head). binary: one logit z per position, as the classes' (0, z)."""

    transform: Literal["none", "relu", "gelu", "gelu_tanh", "silu"] = "none"
    norm: bool = False
    bias: bool = False
    scaled: bool = False
    binary: bool = False


@dataclass(frozen=True, kw_only=True)
class StackSpec:
    """Layers and what stands around them.

    `branches` holds the options of each branch that the pattern names. A name is a registered
    branch, or any other with `type:` naming one (`swa: {type: attention, window: 1024}`). `prefix`
    are layers before the tiled pattern; `n_layers` counts them.
    """

    pattern: str
    prefix: str = ""
    branches: Mapping[str, Any] = field(default_factory=dict)
    norm: Mapping[str, Any] | NormSpec = field(default_factory=NormSpec)
    positions: str | Mapping[str, Any] = "none"
    embedding_norm: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", resolved(NormSpec, self.norm, ("norm",)))
        object.__setattr__(self, "positions", registry.positions(self.positions, ("positions",)))
        object.__setattr__(self, "branches", self._resolved_branches())

    @property
    def layers(self) -> tuple[Layer, ...]:
        """One period of the pattern."""
        return parse(self.pattern)

    @property
    def first_layers(self) -> tuple[Layer, ...]:
        """Layers before the pattern."""
        return parse(self.prefix, ("prefix",))

    def _resolved_branches(self) -> dict[str, dict[str, Any]]:
        known = registry.branches()
        used = [use.name for layer in self.first_layers + self.layers for use in layer]
        for name in used:
            if name not in known and name not in self.branches:
                raise RecipeError(
                    ("pattern",), name, sorted({*known, *self.branches}), "unknown branch"
                )
        for name in self.branches:
            if name not in used:
                raise RecipeError(
                    ("branches", name), name, dict.fromkeys(used), "not in the pattern"
                )
        return {name: self._resolve(name) for name in dict.fromkeys(used)}

    def _resolve(self, name: str) -> dict[str, Any]:
        options = self.branches.get(name) or {}
        if not isinstance(options, Mapping):
            raise RecipeError(("branches", name), options, "a mapping of options", "not a mapping")
        known = registry.branches()
        kind = options.get("type", name)
        if kind not in known:
            raise RecipeError(("branches", name, "type"), kind, sorted(known), "unknown branch")
        rest = {key: value for key, value in options.items() if key != "type"}
        return {"type": kind, **schema.check(rest, known[kind].options, ("branches", name))}


@dataclass(frozen=True, kw_only=True)
class Encoder(StackSpec):
    """The stack that reads the source. Norm, positions and the embedding's norm are those of the
    recipe, and it has as many layers as the decoder, unless given."""

    n_layers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Generator:
    """ELECTRA's second model, which proposes replacements: this recipe at `fraction` of the width
    and with the head of a masked model, the vectors of tokens and positions shared. `branches` are
    those that it has otherwise."""

    fraction: float = 0.25
    branches: Mapping[str, Any] = field(default_factory=dict)


def resolved(kind: type[Any], value: object, key: Key) -> Any:
    """A part of a recipe from its mapping, every default filled in."""
    return value if isinstance(value, kind) else kind(**schema.check(value, kind, key))
