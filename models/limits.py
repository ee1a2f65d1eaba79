"""What a branch's options must hold to at a width, without torch, so that a recipe that cannot be
built is refused before anything heavy is imported."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from models.errors import RecipeError

Options = Mapping[str, Any]


def head_width_for(width: int, key: str = "head_width") -> int:
    """The power of two from √(2 D) up, in [16, 128] (768 gives 64, 4096 gives 128), or the next one
    below that divides the width; RecipeError if that is less than 4."""
    head_width = min(128, max(16, 1 << math.ceil(math.log2(2 * width) / 2)))
    while width % head_width:
        head_width //= 2
    if head_width < 4:
        allowed = "a number given here, or widths that 8 divides"
        raise RecipeError((key,), None, allowed, f"none fits the width {width} by default")
    return head_width


def split_heads(width: int, n_heads: int | None, head_width: int | None) -> tuple[int, int]:
    """Heads and their width from either, both or neither; RecipeError if they do not divide."""
    if n_heads is not None and head_width is not None:
        return n_heads, head_width
    if n_heads is not None:
        divides("n_heads", n_heads, width, f"heads do not divide the width {width}")
        return n_heads, width // n_heads
    head_width = head_width or head_width_for(width)
    divides("head_width", head_width, width, f"does not divide the width {width}")
    return width // head_width, head_width


def kv_heads(n_heads: int, n_kv_heads: int | None, queries_per_kv: int | None) -> int:
    """Heads of keys and values from their number, their share or neither (as many as queries)."""
    key = "n_kv_heads" if queries_per_kv is None else "queries_per_kv"
    given = queries_per_kv if n_kv_heads is None else n_kv_heads
    if given is None:
        return n_heads
    divides(key, given, n_heads, f"does not divide the {n_heads} heads")
    return given if n_kv_heads is not None else n_heads // given


def even_heads(
    width: int,
    n_heads: int | None,
    head_width: int | None,
    n_kv_heads: int | None,
    queries_per_kv: int | None,
) -> tuple[int, int, int]:
    """Heads, heads of keys and their width, in pairs: of one head of the default width come two."""
    heads, own_width = split_heads(width, n_heads, head_width)
    if heads % 2 and n_heads is None and own_width % 2 == 0:
        heads, own_width = 2 * heads, own_width // 2
    groups = kv_heads(heads, n_kv_heads, queries_per_kv)
    for key, number in (("n_heads", heads), ("n_kv_heads", groups)):
        if number % 2:
            raise RecipeError((key,), number, "an even number: heads come in pairs", "odd")
    return heads, groups, own_width


def key_heads(n_heads: int, n_key_heads: int | None) -> int:
    """Heads of queries and keys that heads of values share; by default one each."""
    if n_key_heads is None:
        return n_heads
    divides("n_key_heads", n_key_heads, n_heads, f"does not divide the {n_heads} heads")
    return n_key_heads


def inner_heads(
    width: int, expansion: float, head_width: int | None, n_groups: int
) -> tuple[int, int, int]:
    """Inner width, heads and their width of a Mamba-2 layer; RecipeError if they do not divide."""
    inner = int(expansion * width)
    head_width = head_width or min(64, head_width_for(inner))
    divides("head_width", head_width, inner, f"does not divide the inner width {inner}")
    n_heads = inner // head_width
    divides("n_groups", n_groups, n_heads, f"does not divide the {n_heads} heads")
    return inner, n_heads, head_width


def scans(width: int, expansion: float, n_heads: int) -> int:
    """Inner width of a Mamba layer in heads; RecipeError if they do not divide it."""
    inner = int(expansion * width)
    divides("n_heads", n_heads, inner, f"does not divide the inner width {inner}")
    return inner


def experts(n_experts: int, top_k: int, n_groups: int, top_groups: int) -> None:
    """RecipeError unless top_k experts can be chosen from top_groups of n_groups equal groups."""
    divides("n_groups", n_groups, n_experts, f"does not divide the {n_experts} experts")
    if not 1 <= top_groups <= n_groups:
        raise RecipeError(("top_groups",), top_groups, f"1 to {n_groups}, n_groups", "out of range")
    most = n_experts // n_groups * top_groups
    if not 1 <= top_k <= most:
        raise RecipeError(("top_k",), top_k, f"1 to the {most} experts in reach", "out of range")


def features(feature: str, normalize: bool) -> None:
    """RecipeError for random features without a normaliser: each query's are scaled by a factor of
    its own, which the normaliser takes out again."""
    if feature == "random" and not normalize:
        allowed = "true with feature: random, or another feature"
        raise RecipeError(("normalize",), normalize, allowed, "leaves each query at a scale apart")


def positions(max_length: int, length: int) -> None:
    """RecipeError if a sequence is longer than a table of learned positions."""
    if length > max_length:
        allowed = f"at least the sequence length {length}"
        key = ("positions", "max_length")
        raise RecipeError(key, max_length, allowed, "shorter than the sequence")


def distances(options: Options) -> None:
    """RecipeError if a scheme's buckets, half of which are of one distance each, cannot widen up to
    its furthest one."""
    buckets, least = options.get("buckets"), {"relative": 4, "disentangled": 2}
    if buckets is None or options["type"] not in least:
        return
    if buckets < least[options["type"]]:
        allowed = f"{least[options['type']]} or more"
        raise RecipeError(("positions", "buckets"), buckets, allowed, "too few")
    if options["max_distance"] < buckets // 2 + 2:
        allowed = f"{buckets // 2 + 2} or more, with {buckets} buckets"
        key = ("positions", "max_distance")
        raise RecipeError(key, options["max_distance"], allowed, "nearer than the buckets reach")


def divides(key: str, given: int, whole: int, what: str) -> None:
    """RecipeError unless `given` divides `whole`."""
    if given < 1 or whole % given:
        divisors = [n for n in range(1, whole + 1) if whole % n == 0]
        raise RecipeError((key,), given, divisors, what)


def check(kind: str, width: int, options: Options) -> None:
    """RecipeError if a branch of this kind cannot have these (complete) options at a width."""
    if kind in LIMITS:
        LIMITS[kind](width, options)


def _heads(width: int, options: Options) -> None:
    n_heads, _ = split_heads(width, options["n_heads"], options["head_width"])
    if "n_kv_heads" in options:
        kv_heads(n_heads, options["n_kv_heads"], options.get("queries_per_kv"))
    if "n_key_heads" in options:
        key_heads(n_heads, options["n_key_heads"])


def _linear(width: int, options: Options) -> None:
    _heads(width, options)
    features(options["feature"], options["normalize"])


LIMITS: dict[str, Callable[[int, Options], object]] = {
    "attention": _heads,
    "cross": _heads,
    "disentangled": _heads,
    "mla": lambda width, options: options["nope_width"] or head_width_for(width, "nope_width"),
    "mamba_heads": lambda width, options: scans(width, options["expansion"], options["n_heads"]),
    "zamba": lambda width, options: _heads(2 * width, options),
    "differential": lambda width, options: even_heads(
        width,
        *(options[key] for key in ("n_heads", "head_width", "n_kv_heads", "queries_per_kv")),
    ),
    "linear_attention": _linear,
    "gated_delta": _heads,
    "rwkv7": _heads,
    "mlstm": _heads,
    "slstm": _heads,
    "mamba2": lambda width, options: inner_heads(
        width, *(options[key] for key in ("expansion", "head_width", "n_groups"))
    ),
    "mamba3": lambda width, options: inner_heads(
        width, options["expansion"], options["head_width"], 1
    ),
    "moe": lambda _, options: experts(
        *(options[key] for key in ("n_experts", "top_k", "n_groups", "top_groups"))
    ),
}
