"""Whether a recipe's parts can be trained as it says: what its branches see, against its
objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.errors import Key, RecipeError
from models.objective import OBJECTIVES, Sight

if TYPE_CHECKING:
    from models.recipe import Recipe
    from models.spec import StackSpec

READ_THE_SOURCE = frozenset({"bahdanau", "cross", "luong"})
SEE_ALL = frozenset({"bidirectional", "disentangled"})


def looking_ahead(spec: StackSpec) -> list[str]:
    """The branches in which a position sees later ones."""
    return [
        name
        for name, options in spec.branches.items()
        if options["type"] in SEE_ALL or options.get("causal") is False
    ]


def reading_source(spec: StackSpec) -> list[str]:
    """The branches that read an encoder's output."""
    return [name for name, given in spec.branches.items() if given["type"] in READ_THE_SOURCE]


def check(recipe: Recipe) -> None:
    """RecipeError if the stacks do not fit each other, or the objective does not fit them."""
    _check_stacks(recipe)
    sight, why = _sight(recipe)
    chosen: Any = recipe.objective
    fitting = [name for name, kind in OBJECTIVES.items() if sight in kind.sights]
    if chosen["type"] not in fitting:
        raise RecipeError(("objective", "type"), chosen["type"], fitting, f"does not fit {why}")
    _check_head(recipe, chosen["type"])
    _check_scales(recipe)


def _sight(recipe: Recipe) -> tuple[Sight, str]:
    """What the model sees, and what of the recipe says so."""
    if recipe.encoder is not None:
        return "source", "an encoder-decoder"
    if ahead := looking_ahead(recipe):
        return "all", f"{' and '.join(ahead)}, where a position sees later ones"
    return "past", "branches in which a position sees the past alone"


def _check_stacks(recipe: Recipe) -> None:
    encoder: Any = recipe.encoder
    readers = reading_source(recipe)
    if encoder is None:
        if readers:
            raise RecipeError(("encoder",), None, f"the stack that {readers[0]} reads", "missing")
        return
    if not readers:
        allowed = "a pattern such as attention+cross+mlp"
        raise RecipeError(("pattern",), recipe.pattern, allowed, "no branch reads the encoder")
    for name in reading_source(encoder):
        raise RecipeError(("encoder", "pattern"), name, "branches of one source", "reads a source")
    for name in looking_ahead(recipe):
        allowed = "in a decoder, branches in which a position sees the past alone"
        raise RecipeError(("branches", name), name, allowed, "looks ahead")


def _check_head(recipe: Recipe, chosen: str) -> None:
    head: Any = recipe.head
    if head.binary != (chosen == "replaced_token"):
        allowed = f"{str(not head.binary).lower()} with the objective {chosen}"
        raise RecipeError(("head", "binary"), head.binary, allowed, "wrong value")
    if head.binary and recipe.tied:
        raise RecipeError(("tied",), True, "false with head.binary", "nothing to be tied to")
    if recipe.tied and recipe.embedding_width and head.transform == "none":
        allowed = "an activation, with tied and embedding_width"
        what = "the head is not as wide as the embedding"
        raise RecipeError(("head", "transform"), "none", allowed, what)
    if recipe.generator is not None and chosen != "replaced_token":
        raise RecipeError(("generator",), "given", "with the objective replaced_token", "unused")


def _check_scales(recipe: Recipe) -> None:
    """Under muP what reads and what writes the stream is as large at every width."""
    scales: dict[Key, Any] = {
        ("embedding_scale",): recipe.embedding_scale,
        ("head", "scaled"): recipe.head.scaled,  # type: ignore[union-attr]
    }
    for key, given in scales.items():
        if given and recipe.init.scheme == "mup":  # type: ignore[union-attr]
            allowed = "false with init: mup, or init: scaled or fan_in"
            raise RecipeError(key, True, allowed, "changes with the width")
