"""DiffLlama: the two heads of a pair are half the heads apart there, side by side here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, same
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("diffllama",)
UNUSED = ("lambda_std_dev",)
LAMBDAS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    if hf.attention_bias:
        raise RecipeError(("attention_bias",), True, [False], "not converted")
    return decoder.recipe_at(
        hf,
        pattern="differential+mlp",
        branches={
            "differential": decoder.attention_options(hf),
            "mlp": {"activation": "swiglu", "hidden": hf.intermediate_size},
        },
        norm={"type": "rmsnorm", "placement": "pre", "eps": hf.rms_norm_eps},
        positions=decoder.rope(hf),
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    built = decoder.sample(config, "differential")
    return {
        "model_type": "diffllama",
        **decoder.shape(config),
        **decoder.rope_keywords(config),
        "num_attention_heads": built.n_heads,
        "num_key_value_heads": built.n_kv_heads,
        "head_dim": built.head_width,
        "intermediate_size": decoder.hidden(config, "mlp"),
        "rms_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    built = decoder.sample(config, "differential")
    counts = [built.n_heads, built.n_kv_heads, built.n_kv_heads]
    sizes = [n * built.head_width for n in counts]

    def join(xs: list[Tensor]) -> Tensor:
        return torch.cat([_side_by_side(x, n) for x, n in zip(xs, counts, strict=True)])

    def split(x: Tensor) -> list[Tensor]:
        return [_apart(part, n) for part, n in zip(torch.split(x, sizes), counts, strict=True)]

    found = decoder.ends(config)
    for i in range(config.n_layers):
        ours, theirs = branch(i, 0), f"model.layers.{i}"
        names = tuple(f"{theirs}.self_attn.{x}_proj.weight" for x in "qkv")
        lambdas = tuple(f"{theirs}.self_attn.{name}" for name in LAMBDAS)
        found += [
            Rule(f"{ours}.qkv.weight", names, join, split),
            Rule(f"{ours}.lambdas_4K", lambdas, torch.stack, lambda x: list(x.unbind())),
            same(f"{ours}.out.weight", f"{theirs}.self_attn.o_proj.weight"),
            same(norm(i, 0), f"{theirs}.input_layernorm.weight"),
            same(norm(i, 1), f"{theirs}.post_attention_layernorm.weight"),
            *decoder.gated_mlp(branch(i, 1), f"{theirs}.mlp"),
        ]
    return found


def _side_by_side(x: Tensor, n_heads: int) -> Tensor:
    return x.view(2, n_heads // 2, -1, x.shape[-1]).transpose(0, 1).reshape(x.shape)


def _apart(x: Tensor, n_heads: int) -> Tensor:
    return x.view(n_heads // 2, 2, -1, x.shape[-1]).transpose(0, 1).reshape(x.shape)
