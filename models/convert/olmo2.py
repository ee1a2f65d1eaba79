"""OLMo 2: norms on the branches' outputs and on all queries and keys at once."""

from __future__ import annotations

from typing import Any

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, same
from models.recipe import ModelConfig

MODEL_TYPES = ("olmo2",)


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    bias = hf.attention_bias
    return decoder.recipe_at(
        hf,
        pattern="attention+mlp",
        branches={
            "attention": decoder.attention_options(hf, bias=bias, out_bias=bias, qk_norm="full"),
            "mlp": {"activation": "swiglu", "hidden": hf.intermediate_size},
        },
        norm={"type": "rmsnorm", "placement": "output", "eps": hf.rms_norm_eps},
        positions=decoder.rope(hf),
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    return {
        "model_type": "olmo2",
        **decoder.shape(config),
        **decoder.head_keywords(config),
        **decoder.rope_keywords(config),
        "attention_bias": recipe.branches["attention"]["bias"],
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
        found.append(same(norm(i, 0, "after"), f"{theirs}.post_attention_layernorm.weight"))
        found.append(same(norm(i, 1, "after"), f"{theirs}.post_feedforward_layernorm.weight"))
    return found
