"""LLaMA and Mistral (one windowed attention apart)."""

from __future__ import annotations

from typing import Any

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, same
from models.recipe import ModelConfig

MODEL_TYPES = ("llama", "mistral")


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    bias = hf.model_type == "llama" and hf.attention_bias
    window = getattr(hf, "sliding_window", None)
    options = decoder.attention_options(hf, bias=bias, out_bias=bias, window=window)
    return decoder.recipe_at(
        hf,
        pattern="attention+mlp",
        branches={
            "attention": options,
            "mlp": {"activation": "swiglu", "hidden": hf.intermediate_size},
        },
        norm={"type": "rmsnorm", "placement": "pre", "eps": hf.rms_norm_eps},
        positions=decoder.rope(hf),
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    attention = recipe.branches["attention"]
    return {
        "model_type": "llama" if attention["window"] is None else "mistral",
        "attention_bias": attention["bias"],
        "sliding_window": attention["window"],
        **decoder.shape(config),
        **decoder.head_keywords(config),
        **decoder.rope_keywords(config),
        "intermediate_size": decoder.hidden(config, "mlp"),
        "rms_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config)
    for i in range(config.n_layers):
        theirs = f"model.layers.{i}"
        found += decoder.attention(config, branch(i, 0), f"{theirs}.self_attn")
        found += decoder.gated_mlp(branch(i, 1), f"{theirs}.mlp")
        found.append(same(norm(i, 0), f"{theirs}.input_layernorm.weight"))
        found.append(same(norm(i, 1), f"{theirs}.post_attention_layernorm.weight"))
    return found
