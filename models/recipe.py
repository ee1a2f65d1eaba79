"""A recipe (a family of models) and a model config (one member of it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from models import limits, registry, schema, sight
from models.errors import Key, RecipeError
from models.objective import objective
from models.pattern import Layer, parse, tile

__all__ = ["InitSpec", "ModelConfig", "NormSpec", "Recipe", "RecipeError"]

Options = Mapping[str, Any]


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
        object.__setattr__(self, "norm", _spec(NormSpec, self.norm, ("norm",)))
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


@dataclass(frozen=True, kw_only=True)
class Recipe(StackSpec):
    """A family of models: everything but width, depth and vocabulary.

    `embedding_width` is that of the tokens' vectors, where it is not the model's.
    """

    encoder: Mapping[str, Any] | Encoder | None = None
    objective: str | Mapping[str, Any] = "causal"
    generator: Mapping[str, Any] | Generator | None = None
    embedding_width: int | None = None
    embedding_scale: bool = False
    tied: bool = False
    head: Mapping[str, Any] | HeadSpec = field(default_factory=HeadSpec)
    logit_softcap: float | None = None
    init: str | Mapping[str, Any] | InitSpec = field(default_factory=InitSpec)
    depth: Mapping[str, Any] | DepthSpec = field(default_factory=DepthSpec)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "head", _spec(HeadSpec, self.head, ("head",)))
        object.__setattr__(self, "depth", _spec(DepthSpec, self.depth, ("depth",)))
        init = {"scheme": self.init} if isinstance(self.init, str) else self.init
        object.__setattr__(self, "init", _spec(InitSpec, init, ("init",)))
        object.__setattr__(self, "objective", registry.objective(self.objective, ("objective",)))
        if self.encoder is not None:
            object.__setattr__(self, "encoder", self._resolved_encoder(self.encoder))
        if self.generator is not None:
            generator = _spec(Generator, self.generator, ("generator",))
            object.__setattr__(self, "generator", generator)
        sight.check(self)

    @classmethod
    def from_dict(cls, options: Options) -> Self:
        """Read a recipe; RecipeError names the first thing that is wrong in it."""
        return cls(**schema.check(options, cls))

    def to_dict(self) -> dict[str, Any]:
        """Every key with its default filled in; `from_dict` reads it back."""
        plain: dict[str, Any] = _plain(self)
        return plain

    @property
    def task(self) -> Any:
        """The objective as an object of `models.objective`."""
        return objective(dict(self.objective))  # type: ignore[arg-type]

    def at(self, *, width: int, n_layers: int, vocab_size: int) -> ModelConfig:
        """The member of this family with that shape; RecipeError if it cannot be built."""
        config = ModelConfig(recipe=self, width=width, n_layers=n_layers, vocab_size=vocab_size)
        config.validate()
        return config

    def _resolved_encoder(self, given: Mapping[str, Any] | Encoder) -> Encoder:
        if isinstance(given, Encoder):
            return given
        inherited = {name: getattr(self, name) for name in ("norm", "positions", "embedding_norm")}
        if isinstance(given, Mapping):
            given = {name: _plain(value) for name, value in inherited.items()} | dict(given)
        try:
            return Encoder(**schema.check(given, Encoder))
        except RecipeError as error:
            raise error.within("encoder") from None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A recipe at one shape."""

    recipe: Recipe
    width: int
    n_layers: int
    vocab_size: int

    def validate(self) -> None:
        """RecipeError if some branch cannot have its options at this width."""
        for name in ("width", "n_layers", "vocab_size"):
            value = getattr(self, name)
            if not schema.matches(value, int) or value < 1:
                raise RecipeError((name,), value, "a whole number from 1 up", "wrong value")
        self._validate(self.recipe, self.layers())
        if isinstance(self.recipe.encoder, Encoder):
            try:
                self._validate(self.recipe.encoder, self.encoder_layers())
            except RecipeError as error:
                raise error.within("encoder") from None
        if self.generator is not None:
            self.generator.validate()

    def check_length(self, sequence_length: int) -> None:
        """RecipeError if rows of so many tokens of text are longer than some stack can read."""
        source, length = self.recipe.task.lengths(sequence_length)
        encoder = self.recipe.encoder
        for spec, n in ((encoder, source), (self.recipe, length if encoder else source + length)):
            positions: Any = getattr(spec, "positions", {"type": "none"})
            if positions["type"] == "learned":
                limits.positions(positions["max_length"], n)

    def _validate(self, spec: StackSpec, layers: tuple[Layer, ...]) -> None:
        for use in {use.name for layer in layers for use in layer}:
            options = dict(spec.branches[use])
            try:
                limits.check(options.pop("type"), self.width, options)
            except RecipeError as error:
                raise error.within("branches", use) from None

    def layers(self) -> tuple[Layer, ...]:
        """Every layer, first to last; of an encoder-decoder, the decoder's."""
        return tile(self.recipe.layers, self.n_layers, self.recipe.first_layers)

    def encoder_layers(self) -> tuple[Layer, ...]:
        """Every layer of the encoder, none if there is no encoder."""
        spec = self.recipe.encoder
        if not isinstance(spec, Encoder):
            return ()
        return tile(spec.layers, spec.n_layers or self.n_layers, spec.first_layers)

    @property
    def generator(self) -> ModelConfig | None:
        """ELECTRA's second model: a masked model, narrower, of the same pattern."""
        spec, recipe = self.recipe.generator, self.recipe
        if not isinstance(spec, Generator):
            return None
        options = recipe.to_dict() | {
            "generator": None,
            "objective": {"type": "masked", "probability": recipe.task.probability},
            "branches": recipe.to_dict()["branches"] | dict(spec.branches),
            "embedding_width": recipe.embedding_width or self.width,
            "head": {"transform": "gelu", "norm": True, "bias": True},
            "tied": True,
        }
        width = max(8, round(spec.fraction * self.width / 8) * 8)
        try:
            recipe = Recipe.from_dict(options)
            return ModelConfig(
                recipe=recipe, width=width, n_layers=self.n_layers, vocab_size=self.vocab_size
            )
        except RecipeError as error:
            raise error.within("generator") from None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return {"recipe": self.recipe.to_dict()} | {
            name: getattr(self, name) for name in ("width", "n_layers", "vocab_size")
        }

    @classmethod
    def from_dict(cls, options: Options) -> ModelConfig:
        """Read what `to_dict` wrote."""
        given = schema.check(options, _config_schema)
        return Recipe.from_dict(given.pop("recipe")).at(**given)


def _config_schema(
    *, recipe: Mapping[str, Any], width: int, n_layers: int, vocab_size: int
) -> None: ...


def _spec(kind: type[Any], value: object, key: Key) -> Any:
    return value if isinstance(value, kind) else kind(**schema.check(value, kind, key))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
