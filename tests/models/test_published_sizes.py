"""Published models, from our recipes at their published shapes, to the published precision."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from models import Recipe, cost

Published = int | str


class Size(NamedTuple):
    """`changes` are what the model has otherwise than its recipe, in both stacks if there are two;
    `shape` is its width, layers and vocabulary; `published` are parameters by the name they have in
    `models.costs.Params`, exact or rounded as in `source`."""

    recipe: str
    changes: dict[str, Any]
    shape: tuple[int, int, int]
    published: dict[str, Published]
    source: str


def heads(name: str = "attention", **options: Any) -> dict[str, Any]:
    """A branch whose heads are told by number alone."""
    return {name: {"queries_per_kv": None, **options}}


def gemma2(n_heads: int, n_kv_heads: int, head_width: int, hidden: int) -> dict[str, Any]:
    given = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_width": head_width}
    branches = {**heads(**given), **heads("local", **given), "mlp": {"hidden": hidden}}
    return {"branches": branches}


GROUPED = {"head_width": 128, "n_kv_heads": 8}
LATENT = {"nope_width": 128}
PYTHIA = "the table of github.com/EleutherAI/pythia"
BLOOM = "the model's card"
RWKV4 = "2305.13048"
DEBERTA_V3 = "the model's card: backbone, and embedding"
SHARED = {"branches": {"disentangled": {"share": True}}}
WIDE = {"n_heads": 128, "head_width": 128}
SWITCH_C = {"n_heads": 32, "head_width": 64}
GEGLU = {"activation": "geglu", "hidden": 2048}

SIZES: dict[str, Size] = {
    "GPT-2 124M": Size("gpt2", {}, (768, 12, 50257), {"total": "124.4M"}, "OpenAI's checkpoint"),
    "GPT-2 1.5B": Size("gpt2", {}, (1600, 48, 50257), {"total": "1.558B"}, "OpenAI's checkpoint"),
    "Pythia 70M": Size(
        "gpt_neox",
        {"branches": {"attention": {"n_heads": 8}}},
        (512, 6, 50304),
        {"total": 70_426_624, "non_embedding": 18_915_328},
        PYTHIA,
    ),
    "Pythia 6.9B": Size(
        "gpt_neox",
        {"branches": {"attention": {"n_heads": 32}}},
        (4096, 32, 50432),
        {"total": 6_857_302_016, "non_embedding": 6_444_163_072},
        PYTHIA,
    ),
    "Pythia 12B": Size(
        "gpt_neox",
        {"branches": {"attention": {"n_heads": 40}}},
        (5120, 36, 50688),
        {"total": 11_846_072_320, "non_embedding": 11_327_027_200},
        PYTHIA,
    ),
    "GPT-NeoX-20B": Size(
        "gpt_neox",
        {"branches": {"attention": {"n_heads": 64}}},
        (6144, 44, 50432),
        {"total": 20_554_567_680},
        "2204.06745",
    ),
    "BLOOM 560M": Size(
        "bloom",
        {"branches": {"attention": {"n_heads": 16}}},
        (1024, 24, 250880),
        {"total": 559_214_592, "embedding": 256_901_120},
        BLOOM,
    ),
    "BLOOM 7B": Size("bloom", {}, (4096, 30, 250880), {"total": 7_069_016_064}, BLOOM),
    "BLOOM 176B": Size(
        "bloom",
        {"branches": {"attention": {"n_heads": 112}}},
        (14336, 70, 250880),
        {"total": 176_247_271_424, "embedding": 3_596_615_680},
        BLOOM,
    ),
    "LLaMA 7B": Size(
        "llama",
        {"branches": {"attention": {"head_width": 128}, "mlp": {"hidden": 11008}}},
        (4096, 32, 32000),
        {"total": "6.7B"},
        "2302.13971, table 2",
    ),
    "LLaMA-3 8B": Size(
        "llama",
        {"branches": {"attention": GROUPED, "mlp": {"hidden": 14336}}},
        (4096, 32, 128256),
        {"total": "8.03B"},
        "the model's card",
    ),
    "Mistral 7B": Size(
        "mistral",
        {"branches": {**heads(**GROUPED, window=4096), "mlp": {"hidden": 14336}}},
        (4096, 32, 32000),
        {"total": "7.24B"},
        "the model's card",
    ),
    "Gemma-2 2B": Size(
        "gemma2",
        gemma2(8, 4, 256, 9216),
        (2304, 26, 256128),
        {"embedding": 590_118_912, "non_embedding": 2_024_517_888},
        "2408.00118, table 2",
    ),
    "Gemma-2 9B": Size(
        "gemma2",
        gemma2(16, 8, 256, 14336),
        (3584, 42, 256128),
        {"embedding": 917_962_752, "non_embedding": 8_324_201_984},
        "2408.00118, table 2",
    ),
    "Gemma-2 27B": Size(
        "gemma2",
        gemma2(32, 16, 128, 36864),
        (4608, 46, 256128),
        {"embedding": 1_180_237_824, "non_embedding": 26_047_480_320},
        "2408.00118, table 2",
    ),
    "OLMo-2 7B": Size(
        "olmo2",
        {"branches": {"attention": {"head_width": 128}, "mlp": {"hidden": 11008}}},
        (4096, 32, 100352),
        {"total": "7.30B"},
        "the model's card",
    ),
    "OLMo-2 13B": Size(
        "olmo2",
        {"branches": {"attention": {"head_width": 128}, "mlp": {"hidden": 13824}}},
        (5120, 40, 100352),
        {"total": "13.7B"},
        "the model's card",
    ),
    "Mixtral 8x7B": Size(
        "mixtral",
        {"branches": {**heads(**GROUPED), "moe": {"hidden": 14336}}},
        (4096, 32, 32000),
        {"total": "46.7B", "active": "12.9B"},
        "mistral.ai/news/mixtral-of-experts",
    ),
    "Mixtral 8x22B": Size(
        "mixtral",
        {"branches": {**heads(**GROUPED), "moe": {"hidden": 16384}}},
        (6144, 56, 32768),
        {"total": "141B", "active": "39B"},
        "mistral.ai/news/mixtral-8x22b",
    ),
    "Qwen1.5-MoE A2.7B": Size(
        "qwen2_moe",
        {
            "branches": {
                **heads(n_heads=16, n_kv_heads=16, bias=True),
                "moe": {"n_experts": 60, "top_k": 4, "hidden": 1408, "shared_hidden": 5632},
            }
        },
        (2048, 24, 151936),
        {"total": "14.3B", "active": "2.7B"},
        "the model's card",
    ),
    "Qwen2-57B-A14B": Size(
        "qwen2_moe",
        {
            "branches": {
                **heads(n_heads=28, n_kv_heads=4, bias=True),
                "moe": {"n_experts": 64, "top_k": 8, "hidden": 2560, "shared_hidden": 20480},
            }
        },
        (3584, 28, 151936),
        {"total": "57B", "active": "14B"},
        "2407.10671",
    ),
    "DeepSeek-V2 Lite": Size(
        "deepseek_v2",
        {
            "branches": {
                "mla": {**LATENT, "n_heads": 16, "q_rank": None},
                "mlp": {"hidden": 10944},
                "moe": {"n_experts": 64, "top_k": 6, "hidden": 1408, "shared_hidden": 2816},
            }
        },
        (2048, 27, 102400),
        {"total": "15.7B"},
        "2405.04434",
    ),
    "DeepSeek-V2": Size(
        "deepseek_v2",
        {
            "branches": {
                "mla": {**LATENT, "n_heads": 128, "q_rank": 1536},
                "mlp": {"hidden": 12288},
                "moe": {"n_experts": 160, "top_k": 6, "hidden": 1536, "shared_hidden": 3072},
            }
        },
        (5120, 60, 102400),
        {"total": "236B", "active": "21B"},
        "2405.04434",
    ),
    "DeepSeek-V3": Size(
        "deepseek_v3",
        {
            "prefix": "mla+mlp mla+mlp mla+mlp",
            "branches": {
                "mla": {**LATENT, "n_heads": 128, "q_rank": 1536},
                "mlp": {"hidden": 18432},
                "moe": {"n_experts": 256, "top_k": 8, "hidden": 2048, "shared_hidden": 2048},
            },
        },
        (7168, 61, 129280),
        {"total": "671B", "active without embedding": "37B"},
        "2412.19437",
    ),
    "Llama 4 Maverick": Size(
        "llama4",
        {
            "branches": {
                **heads("chunked", n_heads=40, **GROUPED),
                **heads("attention", n_heads=40, **GROUPED),
                "mlp": {"hidden": 16384},
                "moe": {"n_experts": 128, "hidden": 8192},
            }
        },
        (5120, 48, 202048),
        {"total": "0.40T", "active": "17B"},
        "the model's card",
    ),
    "Jamba 52B": Size(
        "jamba",
        {
            "branches": {
                **heads(**GROUPED),
                "mlp": {"hidden": 14336},
                "moe": {"n_experts": 16, "top_k": 2, "hidden": 14336},
            }
        },
        (4096, 32, 65536),
        {"total": "52B", "active": "12B"},
        "2403.19887",
    ),
    "Nemotron-H 8B": Size(
        "nemotron_h",
        {
            "branches": {
                "mamba2": {"n_states": 128, "n_groups": 8, "head_width": 64},
                **heads(n_heads=32, **GROUPED),
                "mlp": {"hidden": 21504},
            }
        },
        (4096, 52, 131072),
        {"total": "8B"},
        "2504.03624",
    ),
    "Qwen3-Next 80B-A3B": Size(
        "qwen3_next",
        {
            "branches": {
                "gated_delta": {"n_heads": 32, "n_key_heads": 16, "head_width": 128},
                **heads(n_heads=16, n_kv_heads=2, head_width=256),
                "moe": {
                    "n_experts": 512,
                    "top_k": 10,
                    "hidden": 512,
                    "shared_hidden": 512,
                },
            }
        },
        (2048, 48, 151936),
        {"total": "80B", "non_embedding": "79B"},
        "the model's card",
    ),
    "Mamba 2.8B": Size(
        "mamba", {"tied": True}, (2560, 64, 50280), {"total": "2.77B"}, "the checkpoint"
    ),
    "Mamba-2 2.7B": Size(
        "mamba2",
        {"tied": True, "branches": {"mamba2": {"n_states": 128, "head_width": 64}}},
        (2560, 64, 50288),
        {"total": "2.70B"},
        "the checkpoint",
    ),
    "Falcon Mamba 7B": Size(
        "falcon_mamba", {}, (4096, 64, 65024), {"total": "7.27B"}, "the model's card"
    ),
    "RWKV-4 169M": Size("rwkv4", {}, (768, 12, 50277), {"total": "169.3M"}, RWKV4),
    "RWKV-4 1.5B": Size("rwkv4", {}, (2048, 24, 50277), {"total": "1.515B"}, RWKV4),
    "RWKV-4 14B": Size("rwkv4", {}, (5120, 40, 50277), {"total": "14.15B"}, RWKV4),
    "RWKV-7 191M": Size(
        "rwkv7", {}, (768, 12, 65536), {"total": "191M"}, "the name of fla-hub/rwkv7-191M-world"
    ),
    "xLSTM 7B": Size(
        "xlstm",
        {"branches": {"mlstm": {"n_heads": 8}, "mlp": {"hidden": 10944}}},
        (4096, 32, 50304),
        {"total": 6_865_424_896},
        "the checkpoint NX-AI/xLSTM-7b",
    ),
    "BERT base": Size("bert", {}, (768, 12, 30522), {"total": "110M"}, "1810.04805"),
    "RoBERTa base": Size("roberta", {}, (768, 12, 50265), {"total": "125M"}, "fairseq's table"),
    "RoBERTa large": Size("roberta", {}, (1024, 24, 50265), {"total": "355M"}, "fairseq's table"),
    "ELECTRA small": Size(
        "electra",
        {"generator": None, "embedding_width": 128, "branches": {"attention": {"n_heads": 4}}},
        (256, 12, 30522),
        {"total": "14M"},
        "2003.10555",
    ),
    "ELECTRA base": Size(
        "electra", {"generator": None}, (768, 12, 30522), {"total": "0.11B"}, "2003.10555"
    ),
    "ELECTRA large": Size(
        "electra", {"generator": None}, (1024, 24, 30522), {"total": "335M"}, "2003.10555"
    ),
    "DeBERTa-v2 xlarge": Size(
        "deberta", {}, (1536, 24, 128100), {"total": "0.9B"}, "the card; without its convolution"
    ),
    "DeBERTa-v3 xsmall": Size(
        "deberta", SHARED, (384, 12, 128100), {"trunk": "22M"}, "the model's card: backbone"
    ),
    "DeBERTa-v3 small": Size(
        "deberta", SHARED, (768, 6, 128100), {"trunk": "44M", "embedding": "98M"}, DEBERTA_V3
    ),
    "DeBERTa-v3 base": Size(
        "deberta", SHARED, (768, 12, 128100), {"trunk": "86M", "embedding": "98M"}, DEBERTA_V3
    ),
    "DeBERTa-v3 large": Size(
        "deberta", SHARED, (1024, 24, 128100), {"trunk": "304M", "embedding": "131M"}, DEBERTA_V3
    ),
    "T5 base": Size(
        "t5",
        {"branches": {"mlp": {"hidden": 3072}}},
        (768, 12, 32128),
        {"total": "0.22B"},
        "1910.10683",
    ),
    "T5 11B": Size(
        "t5",
        {"branches": {"attention": WIDE, "cross": WIDE, "mlp": {"hidden": 65536}}},
        (1024, 24, 32128),
        {"total": "11B"},
        "1910.10683",
    ),
    "Switch-Base": Size(
        "switch_t5",
        {"branches": {"mlp": GEGLU, "moe": {**GEGLU, "n_experts": 128}}},
        (768, 12, 32128),
        {"total": "7B"},
        "2101.03961",
    ),
    "Switch-C": Size(
        "switch_t5",
        {
            "encoder": {"pattern": "attention+moe"},
            "pattern": "attention+cross+moe",
            "branches": {
                "attention": SWITCH_C,
                "cross": SWITCH_C,
                "moe": {"n_experts": 2048, "hidden": 6144},
            },
        },
        (2080, 15, 32128),
        {"total": "1571B"},
        "2101.03961",
    ),
    "BART base": Size("bart", {}, (768, 6, 50265), {"total": "139M"}, "the model's card"),
    "BART large": Size("bart", {}, (1024, 12, 50265), {"total": "406M"}, "the model's card"),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_size(zoo: Any, name: str) -> None:
    size = SIZES[name]
    width, n_layers, vocab_size = size.shape
    recipe = Recipe.from_dict(changed(zoo.recipe_dict(size.recipe), size.changes))
    config = recipe.at(width=width, n_layers=n_layers, vocab_size=vocab_size)
    params = cost(config, 128).params
    for part, published in size.published.items():
        first, _, without = part.partition(" without ")
        count = getattr(params, first) - (getattr(params, without) if without else 0)
        assert (count if isinstance(published, int) else rounded(count, published)) == published


def changed(given: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the changes in both stacks, of branches those that their patterns name."""
    given = merged(given, changes)
    stacks = [given]
    if "encoder" in given:
        encoder = merged(given["encoder"], {"branches": changes.get("branches", {})})
        given["encoder"] = encoder
        stacks.append(encoder)
    for stack in stacks:
        named = set(f"{stack.get('prefix', '')} {stack['pattern']}".replace("+", " ").split())
        stack["branches"] = {key: of for key, of in stack["branches"].items() if key in named}
    return given


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` written over `base`, mapping by mapping."""
    return base | {
        key: merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in changes.items()
    }


def rounded(count: int, like: str) -> str:
    """`count` in the unit and with the digits of `like`."""
    unit = {"M": 1e6, "B": 1e9, "T": 1e12}[like[-1]]
    digits = len(like.partition(".")[2]) - 1 if "." in like else 0
    return f"{count / unit:.{digits}f}{like[-1]}"
