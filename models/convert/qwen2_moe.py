"""Qwen2-MoE: fine-grained experts beside a gated shared MLP."""

from __future__ import annotations

from typing import Any

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, same
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("qwen2_moe",)


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    if hf.mlp_only_layers or hf.decoder_sparse_step != 1 or hf.use_sliding_window:
        raise RecipeError(("mlp_only_layers",), hf.mlp_only_layers, "experts in all layers", "no")
    return decoder.recipe_at(
        hf,
        pattern="attention+moe",
        branches={
            "attention": decoder.attention_options(hf, bias=hf.qkv_bias),
            "moe": {
                "activation": "swiglu",
                "hidden": hf.moe_intermediate_size,
                "n_experts": hf.num_experts,
                "top_k": hf.num_experts_per_tok,
                "normalize": hf.norm_topk_prob,
                "shared_hidden": hf.shared_expert_intermediate_size,
                "shared_gate": True,
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
        "model_type": "qwen2_moe",
        **decoder.shape(config),
        **decoder.head_keywords(config),
        **decoder.rope_keywords(config),
        "qkv_bias": recipe.branches["attention"]["bias"],
        "moe_intermediate_size": decoder.hidden(config, "moe"),
        "num_experts": moe["n_experts"],
        "num_experts_per_tok": moe["top_k"],
        "norm_topk_prob": moe["normalize"] is not False and moe["top_k"] > 1,
        "shared_expert_intermediate_size": moe["shared_hidden"],
        "rms_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config)
    for i in range(config.n_layers):
        theirs, moe = f"model.layers.{i}", branch(i, 1)
        found += decoder.attention(config, branch(i, 0), f"{theirs}.self_attn")
        found += decoder.experts(moe, f"{theirs}.mlp")
        found += decoder.gated_mlp(f"{moe}.shared", f"{theirs}.mlp.shared_expert")
        found.append(same(f"{moe}.shared_gate.weight", f"{theirs}.mlp.shared_expert_gate.weight"))
        found.append(same(norm(i, 0), f"{theirs}.input_layernorm.weight"))
        found.append(same(norm(i, 1), f"{theirs}.post_attention_layernorm.weight"))
    return found
