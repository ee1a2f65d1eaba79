"""Gemma 2: local and global layers in turn, norms on both sides, soft-capped scores and logits."""

from __future__ import annotations

from typing import Any

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, plus_one
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("gemma2",)
LAYERS = ["sliding_attention", "full_attention"]


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    if hf.layer_types != LAYERS * (hf.num_hidden_layers // 2):
        raise RecipeError(("layer_types",), hf.layer_types, "local and global in turn", "not ours")
    options = decoder.attention_options(
        hf, softcap=hf.attn_logit_softcapping, scale=hf.query_pre_attn_scalar**-0.5
    )
    return decoder.recipe_at(
        hf,
        pattern="local+mlp attention+mlp",
        branches={
            "local": {"type": "attention", **options, "window": hf.sliding_window},
            "attention": options,
            "mlp": {"activation": "geglu_tanh", "hidden": hf.intermediate_size},
        },
        norm={"type": "rmsnorm", "placement": "peri", "eps": hf.rms_norm_eps},
        positions=decoder.rope(hf),
        tied=hf.tie_word_embeddings,
        embedding_scale=True,
        logit_softcap=hf.final_logit_softcapping,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    attention = recipe.branches["attention"]
    head_width = decoder.heads(config)[2]
    return {
        "model_type": "gemma2",
        **decoder.shape(config),
        **decoder.head_keywords(config),
        **decoder.rope_keywords(config),
        "sliding_window": recipe.branches["local"]["window"],
        "layer_types": LAYERS * (config.n_layers // 2),
        "attn_logit_softcapping": attention["softcap"] and float(attention["softcap"]),
        "final_logit_softcapping": recipe.logit_softcap and float(recipe.logit_softcap),
        "query_pre_attn_scalar": round(attention["scale"] ** -2)
        if attention["scale"]
        else head_width,
        "intermediate_size": decoder.hidden(config, "mlp"),
        "rms_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config, make=plus_one)
    for i in range(config.n_layers):
        theirs = f"model.layers.{i}"
        found += decoder.attention(config, branch(i, 0), f"{theirs}.self_attn")
        found += decoder.gated_mlp(branch(i, 1), f"{theirs}.mlp")
        for j, (before, after) in enumerate(
            (
                ("input_layernorm", "post_attention_layernorm"),
                ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
            )
        ):
            found.append(plus_one(norm(i, j), f"{theirs}.{before}.weight"))
            found.append(plus_one(norm(i, j, "after"), f"{theirs}.{after}.weight"))
    return found
