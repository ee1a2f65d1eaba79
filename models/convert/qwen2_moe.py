"""Qwen2-MoE: fine-grained experts beside a gated shared MLP."""

from __future__ import annotations

from typing import Any

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, same
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("qwen2_moe",)
UNUSED = ("intermediate_size",)


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    if hf.mlp_only_layers or hf.decoder_sparse_step != 1 or hf.use_sliding_window:
        raise RecipeError(("mlp_only_layers",), hf.mlp_only_layers, "experts in all layers", "no")
    return decoder.recipe_at(
        hf,
        pattern="attention+moe",
        branches={
            "attention": decoder.attention_options(hf, bias=hf.qkv_bias),
            "moe": decoder.routed(hf),
        },
        norm={"type": "rmsnorm", "placement": "pre", "eps": hf.rms_norm_eps},
        positions=decoder.rope(hf),
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    return {
        "model_type": "qwen2_moe",
        **decoder.shape(config),
        **decoder.head_keywords(config),
        **decoder.rope_keywords(config),
        "qkv_bias": recipe.branches["attention"]["bias"],
        **decoder.routed_keywords(config),
        "rms_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config)
    for i in range(config.n_layers):
        theirs = f"model.layers.{i}"
        found += decoder.attention(config, branch(i, 0), f"{theirs}.self_attn")
        found += decoder.routed_rules(branch(i, 1), f"{theirs}.mlp")
        found.append(same(norm(i, 0), f"{theirs}.input_layernorm.weight"))
        found.append(same(norm(i, 1), f"{theirs}.post_attention_layernorm.weight"))
    return found
