"""Whether a model can be trained on slices of its rows (`models.engines.slices`), told from its
recipe and without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from models.errors import RecipeError
from models.limits import even_heads, head_width_for, split_heads
from models.recipe import ModelConfig

POINTWISE = frozenset({"mlp", "moe"})
ATTENDING = frozenset({"attention", "differential", "gau", "mla"})
RELAYED = frozenset(
    {
        "bytenet",
        "convolution",
        "gated_delta",
        "linear_attention",
        "mamba",
        "mamba2",
        "mamba3",
        "mamba_heads",
        "mlstm",
        "recurrent",
        "rwkv4",
        "rwkv7",
        "rwkv_channel",
        "s4",
        "s5",
        "slstm",
    }
)
"""Branches that go on from a state of fixed size."""
OBJECTIVES = ("causal", "masked", "multi_token", "replaced_token")
"""Those that keep a row as long as it is, and each position's token and target in their places."""


def is_relayed(config: ModelConfig) -> bool:
    """Whether some branch waits for the slice before."""
    return any(options["type"] in RELAYED for _, options in _branches(config))


def check(config: ModelConfig, size: int, mode: str) -> None:
    """RecipeError, which names the branch, unless rows can be cut into `size` slices."""
    recipe = config.recipe
    objective: Any = recipe.objective
    cut = f"with rows cut into {size} slices"
    if objective["type"] not in OBJECTIVES:
        raise RecipeError(("objective", "type"), objective["type"], OBJECTIVES, f"not {cut}")
    if recipe.generator is not None:
        raise RecipeError(("generator",), "given", "none", f"not {cut}")
    for name, options in _branches(config):
        try:
            _check(options, config, size, mode, cut)
        except RecipeError as error:
            raise error.within("branches", name) from None


def _branches(config: ModelConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    names = dict.fromkeys(use.name for layer in config.layers() for use in layer)
    return ((name, config.recipe.branches[name]) for name in names)


def _check(options: Mapping[str, Any], config: ModelConfig, size: int, mode: str, cut: str) -> None:
    kind = options["type"]
    if kind not in POINTWISE | ATTENDING | RELAYED:
        known = sorted(POINTWISE | ATTENDING | RELAYED)
        raise RecipeError(("type",), kind, known, f"cannot be trained {cut}")
    if kind in RELAYED and options.get("causal") is False:
        raise RecipeError(("causal",), False, "true", f"sees later slices {cut}")
    if kind not in ATTENDING:
        return
    positions: Any = config.recipe.positions
    if mode == "ring" and positions["type"] == "relative":
        schemes = "another scheme, or parallel.sequence_mode ulysses"
        raise RecipeError(("positions", "type"), "relative", schemes, "learned of whole rows")
    n_heads = _heads(kind, config.width, options)
    if mode == "ulysses" and n_heads % size:
        what = f"no multiple of the {size} ranks that share them"
        allowed = f"a multiple of {size}, or parallel.sequence_mode ring"
        raise RecipeError(("n_heads",), n_heads, allowed, what)


def _heads(kind: str, width: int, options: Mapping[str, Any]) -> int:
    """How many heads one softmax has."""
    if kind == "gau":
        return 1
    if kind == "mla":
        nope = options["nope_width"] or head_width_for(width)
        return options["n_heads"] or max(1, width // nope)
    if kind == "differential":
        given = ("n_heads", "head_width", "n_kv_heads", "queries_per_kv")
        return even_heads(width, *(options[key] for key in given))[0] // 2
    return split_heads(width, options["n_heads"], options["head_width"])[0]
