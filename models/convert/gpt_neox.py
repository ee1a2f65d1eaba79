"""GPT-NeoX and Pythia: branches side by side, partly rotary heads."""

from __future__ import annotations

from functools import partial
from typing import Any

from models.convert import decoder
from models.convert.decoder import branch
from models.convert.rules import Rule, both, interleaved, same
from models.recipe import ModelConfig

MODEL_TYPES = ("gpt_neox",)
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu"}


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    bias = hf.attention_bias
    return decoder.recipe_at(
        hf,
        pattern="attention+mlp",
        branches={
            "attention": {"n_heads": hf.num_attention_heads, "bias": bias, "out_bias": bias},
            "mlp": {
                "activation": ACTIVATIONS[hf.hidden_act],
                "hidden": hf.intermediate_size,
                "bias": True,
            },
        },
        norm={
            "type": "layernorm",
            "placement": "parallel" if hf.use_parallel_residual else "pre",
            "eps": hf.layer_norm_eps,
        },
        positions=decoder.rope(hf),
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "model_type": "gpt_neox",
        **decoder.shape(config),
        **decoder.rope_keywords(config),
        "num_attention_heads": decoder.heads(config)[0],
        "intermediate_size": decoder.hidden(config, "mlp"),
        "hidden_act": names[recipe.branches["mlp"]["activation"]],
        "use_parallel_residual": recipe.norm.placement == "parallel",
        "attention_bias": recipe.branches["attention"]["bias"],
        "layer_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    n_heads = decoder.heads(config)[0]
    found = decoder.ends(config, "gpt_neox.embed_in", "gpt_neox.final_layer_norm")
    found.append(same("final_norm.bias", "gpt_neox.final_layer_norm.bias"))
    for i in range(config.n_layers):
        theirs = f"gpt_neox.layers.{i}"
        fused = partial(interleaved, n_heads=n_heads)
        found += both(f"{branch(i, 0)}.qkv", f"{theirs}.attention.query_key_value", fused)
        found += both(f"{branch(i, 0)}.out", f"{theirs}.attention.dense")
        found += both(f"{branch(i, 1)}.into", f"{theirs}.mlp.dense_h_to_4h")
        found += both(f"{branch(i, 1)}.out", f"{theirs}.mlp.dense_4h_to_h")
        for j, name in enumerate(("input_layernorm", "post_attention_layernorm")):
            found += both(f"layers.{i}.residuals.{j}.before", f"{theirs}.{name}")
    return found
