"""Mixtral."""

from __future__ import annotations

from typing import Any

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, same
from models.recipe import ModelConfig

MODEL_TYPES = ("mixtral",)


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    return decoder.recipe_at(
        hf,
        pattern="attention+moe",
        branches={
            "attention": decoder.attention_options(hf, window=hf.sliding_window),
            "moe": {
                "activation": "swiglu",
                "hidden": hf.intermediate_size,
                "n_experts": hf.num_local_experts,
                "top_k": hf.num_experts_per_tok,
                "normalize": True,
            },
        },
        norm={"type": "rmsnorm", "placement": "pre", "eps": hf.rms_norm_eps},
        positions=decoder.rope(hf),
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    moe = recipe.branches["moe"]
    return {
        "model_type": "mixtral",
        **decoder.shape(config),
        **decoder.head_keywords(config),
        **decoder.rope_keywords(config),
        "sliding_window": recipe.branches["attention"]["window"],
        "intermediate_size": decoder.hidden(config, "moe"),
        "num_local_experts": moe["n_experts"],
        "num_experts_per_tok": moe["top_k"],
        "rms_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config)
    for i in range(config.n_layers):
        theirs = f"model.layers.{i}"
        found += decoder.attention(config, branch(i, 0), f"{theirs}.self_attn")
        found += decoder.experts(branch(i, 1), f"{theirs}.mlp")
        found.append(same(norm(i, 0), f"{theirs}.input_layernorm.weight"))
        found.append(same(norm(i, 1), f"{theirs}.post_attention_layernorm.weight"))
    return found
