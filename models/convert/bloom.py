"""BLOOM: ALiBi and a norm on the embedding."""

from __future__ import annotations

from functools import partial
from typing import Any

from models.convert import decoder
from models.convert.decoder import branch
from models.convert.rules import Rule, both, interleaved, same
from models.recipe import ModelConfig, Recipe

MODEL_TYPES = ("bloom",)


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    recipe = {
        "pattern": "attention+mlp",
        "branches": {
            "attention": {"n_heads": hf.n_head, "bias": True, "out_bias": True},
            "mlp": {"activation": "gelu_tanh", "hidden": 4 * hf.hidden_size, "bias": True},
        },
        "norm": {"type": "layernorm", "placement": "pre", "eps": hf.layer_norm_epsilon},
        "positions": "alibi",
        "embedding_norm": True,
        "tied": hf.tie_word_embeddings,
    }
    return Recipe.from_dict(recipe).at(
        width=hf.hidden_size, n_layers=hf.n_layer, vocab_size=hf.vocab_size
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    return {
        "model_type": "bloom",
        **decoder.shape(config),
        "n_layer": config.n_layers,
        "n_head": decoder.heads(config)[0],
        "layer_norm_epsilon": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    fused = partial(interleaved, n_heads=decoder.heads(config)[0])
    found = decoder.ends(config, "transformer.word_embeddings", "transformer.ln_f")
    found.append(same("final_norm.bias", "transformer.ln_f.bias"))
    found += both("embedding_norm", "transformer.word_embeddings_layernorm")
    for i in range(config.n_layers):
        theirs = f"transformer.h.{i}"
        found += both(f"{branch(i, 0)}.qkv", f"{theirs}.self_attention.query_key_value", fused)
        found += both(f"{branch(i, 0)}.out", f"{theirs}.self_attention.dense")
        found += both(f"{branch(i, 1)}.into", f"{theirs}.mlp.dense_h_to_4h")
        found += both(f"{branch(i, 1)}.out", f"{theirs}.mlp.dense_4h_to_h")
        for j, name in enumerate(("input_layernorm", "post_attention_layernorm")):
            found += both(f"layers.{i}.residuals.{j}.before", f"{theirs}.{name}")
    return found
