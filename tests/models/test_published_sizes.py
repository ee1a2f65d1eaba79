"""Published models, from our recipes at their published shapes, to the published precision."""

from __future__ import annotations

from typing import Any

import pytest

from models import Recipe, cost

GROUPED = {"head_width": 128, "n_kv_heads": 8}

# name: recipe, its options at that size, (width, layers, vocabulary), total, active or None
PUBLISHED: dict[str, tuple[str, dict[str, Any], tuple[int, int, int], str, str | None]] = {
    "GPT-2 124M": ("gpt2", {}, (768, 12, 50257), "124.4M", None),
    "GPT-2 1.5B": ("gpt2", {}, (1600, 48, 50257), "1.558B", None),
    "Pythia 6.9B": (
        "gpt_neox",
        {"attention": {"n_heads": 32, "bias": True, "out_bias": True}},
        (4096, 32, 50432),
        "6.86B",
        None,
    ),
    "BLOOM 7B": ("bloom", {}, (4096, 30, 250880), "7.07B", None),
    "LLaMA-3 8B": (
        "llama",
        {"attention": GROUPED, "mlp": {"hidden": 14336}},
        (4096, 32, 128256),
        "8.03B",
        None,
    ),
    "Mistral 7B": (
        "mistral",
        {"attention": {**GROUPED, "window": 4096}, "mlp": {"hidden": 14336}},
        (4096, 32, 32000),
        "7.24B",
        None,
    ),
    "Gemma-2 9B": (
        "gemma2",
        {
            "attention": {"n_heads": 16, "head_width": 256, "n_kv_heads": 8},
            "local": {"type": "attention", "n_heads": 16, "head_width": 256, "n_kv_heads": 8},
            "mlp": {"activation": "geglu_tanh", "hidden": 14336},
        },
        (3584, 42, 256000),
        "9.24B",
        None,
    ),
    "OLMo-2 7B": (
        "olmo2",
        {"attention": {"qk_norm": "full", "head_width": 128}, "mlp": {"hidden": 11008}},
        (4096, 32, 100352),
        "7.30B",
        None,
    ),
    "Mixtral 8x7B": (
        "mixtral",
        {"attention": GROUPED, "moe": {"hidden": 14336}},
        (4096, 32, 32000),
        "46.7B",
        "12.9B",
    ),
    "DeepSeek-V2": (
        "deepseek_v2",
        {
            "mla": {"n_heads": 128, "nope_width": 128, "q_rank": 1536},
            "mlp": {"hidden": 12288},
            "moe": {"n_experts": 160, "top_k": 6, "hidden": 1536, "shared_hidden": 3072},
        },
        (5120, 60, 102400),
        "236B",
        "21B",
    ),
    "DeepSeek-V3": (
        "deepseek_v3",
        {
            "mla": {"n_heads": 128, "nope_width": 128, "q_rank": 1536},
            "mlp": {"hidden": 18432},
            "moe": {"n_experts": 256, "top_k": 8, "hidden": 2048, "shared_hidden": 2048},
        },
        (7168, 61, 129280),
        "671B",
        "37B",
    ),
    "Jamba 52B": (
        "jamba",
        {
            "attention": GROUPED,
            "mlp": {"hidden": 14336},
            "moe": {"n_experts": 16, "top_k": 2, "hidden": 14336},
        },
        (4096, 32, 65536),
        "52B",
        "12B",
    ),
    "Mamba 2.8B": ("mamba", {}, (2560, 64, 50280), "2.77B", None),
    "Mamba-2 2.7B": (
        "mamba2",
        {"mamba2": {"n_states": 128, "head_width": 64}},
        (2560, 64, 50288),
        "2.70B",
        None,
    ),
}
# Its report (2412.19437) counts 37B without the input embedding: 37.6B with it.
WITHOUT_EMBEDDING = {"DeepSeek-V3"}
TIED = {"Mamba 2.8B", "Mamba-2 2.7B"}
PREFIX = {"DeepSeek-V3": "mla+mlp mla+mlp mla+mlp"}


@pytest.mark.parametrize("published", PUBLISHED)
def test_published_size(zoo: Any, published: str) -> None:
    name, options, (width, n_layers, vocab_size), total, active = PUBLISHED[published]
    given = zoo.recipe_dict(name)
    given["branches"] = given["branches"] | options
    given["tied"] = given.get("tied", False) or published in TIED
    given["prefix"] = PREFIX.get(published, given.get("prefix", ""))
    config = Recipe.from_dict(given).at(width=width, n_layers=n_layers, vocab_size=vocab_size)
    params = cost(config, 1024).params
    assert rounded(params.total, total) == total
    if active is not None:
        left_out = params.embedding if published in WITHOUT_EMBEDDING else 0
        assert rounded(params.active - left_out, active) == active


def rounded(count: int, like: str) -> str:
    """`count` in the unit and with the digits of `like`."""
    unit = {"M": 1e6, "B": 1e9}[like[-1]]
    digits = len(like.partition(".")[2]) - 1 if "." in like else 0
    return f"{count / unit:.{digits}f}{like[-1]}"


WIDE = {"n_heads": 128, "head_width": 128, "scale": 1.0}
T5_11B = {"attention": WIDE, "mlp": {"hidden": 65536}}

# name: recipe, what it has otherwise, (width, layers, vocabulary), total
OTHERS: dict[str, tuple[str, dict[str, Any], tuple[int, int, int], str]] = {
    "BERT base": ("bert", {}, (768, 12, 30522), "110M"),
    "RoBERTa base": ("roberta", {}, (768, 12, 50265), "125M"),
    "RoBERTa large": ("roberta", {}, (1024, 24, 50265), "355M"),
    "ELECTRA small": (
        "electra",
        {"generator": None, "embedding_width": 128, "branches": {"attention": {"n_heads": 4}}},
        (256, 12, 30522),
        "14M",
    ),
    "DeBERTa-v2 xlarge": ("deberta", {}, (1536, 24, 128100), "0.9B"),  # without its convolution
    "T5 11B": ("t5", {"branches": {**T5_11B, "cross": WIDE}}, (1024, 24, 32128), "11B"),
    "BART base": ("bart", {}, (768, 6, 50265), "139M"),
    "BART large": ("bart", {}, (1024, 12, 50265), "406M"),
}


@pytest.mark.parametrize("published", OTHERS)
def test_published_size_of_encoders_and_encoder_decoders(zoo: Any, published: str) -> None:
    name, changes, (width, n_layers, vocab_size), total = OTHERS[published]
    given = merged(zoo.recipe_dict(name), changes)
    if "encoder" in given:
        branches = dict(changes.get("branches", {}))
        branches.pop("cross", None)
        given["encoder"] = merged(given["encoder"], {"branches": branches})
    config = Recipe.from_dict(given).at(width=width, n_layers=n_layers, vocab_size=vocab_size)
    assert rounded(cost(config, 512).params.total, total) == total


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` written over `base`, mapping by mapping."""
    return base | {
        key: merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in changes.items()
    }
