"""A recipe (a family of models) and a model config (one member of it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from models import limits, registry, schema, sight
from models.errors import RecipeError
from models.objective import objective
from models.pattern import Layer, tile
from models.spec import (
    DepthSpec,
    Encoder,
    Generator,
    HeadSpec,
    InitSpec,
    NormSpec,  # noqa: F401 (`schema` reads the annotations that Recipe inherits in this module)
    StackSpec,
    resolved,
)

Options = Mapping[str, Any]


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
        object.__setattr__(self, "head", resolved(HeadSpec, self.head, ("head",)))
        object.__setattr__(self, "depth", resolved(DepthSpec, self.depth, ("depth",)))
        init = {"scheme": self.init} if isinstance(self.init, str) else self.init
        object.__setattr__(self, "init", resolved(InitSpec, init, ("init",)))
        object.__setattr__(self, "objective", registry.objective(self.objective, ("objective",)))
        if self.encoder is not None:
            object.__setattr__(self, "encoder", self._resolved_encoder(self.encoder))
        if self.generator is not None:
            generator = resolved(Generator, self.generator, ("generator",))
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

    def check_rates(self) -> None:
        """RecipeError if there is no model of muP's base width for rates to follow."""
        if self.base is None:
            return
        try:
            self.base.validate()
        except RecipeError as error:
            what = f"muP's rates follow a model of that width, and there is none ({error})"
            allowed = "a width that the recipe can be built at"
            raise RecipeError(("init", "base_width"), self.base.width, allowed, what) from None

    def check_length(self, sequence_length: int) -> None:
        """RecipeError if rows of so many tokens of text are longer than some stack can read."""
        source, length = self.recipe.task.lengths(sequence_length)
        encoder = self.recipe.encoder
        for spec, n in ((encoder, source), (self.recipe, length if encoder else source + length)):
            positions: Any = getattr(spec, "positions", {"type": "none"})
            if positions["type"] == "learned":
                limits.positions(positions["max_length"], n)

    def _validate(self, spec: StackSpec, layers: tuple[Layer, ...]) -> None:
        limits.distances(spec.positions)  # type: ignore[arg-type]
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
    def base(self) -> ModelConfig | None:
        """Under muP, the member at the base width."""
        init: Any = self.recipe.init
        return replace(self, width=init.base_width) if init.scheme == "mup" else None

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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
