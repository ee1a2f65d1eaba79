"""GPT-2, whose matrices lie the other way round."""

from __future__ import annotations

from typing import Any

from models.convert import decoder
from models.convert.decoder import branch
from models.convert.rules import Rule, both, same, transposed
from models.recipe import ModelConfig, Recipe

MODEL_TYPES = ("gpt2",)
HF_CLASS = {"gpt2": "GPT2LMHeadModel"}
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu"}


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    recipe = {
        "pattern": "attention+mlp",
        "branches": {
            "attention": {"n_heads": hf.n_head, "bias": True, "out_bias": True},
            "mlp": {
                "activation": ACTIVATIONS[hf.activation_function],
                "hidden": hf.n_inner or 4 * hf.n_embd,
                "bias": True,
            },
        },
        "norm": {"type": "layernorm", "placement": "pre", "eps": hf.layer_norm_epsilon},
        "positions": {"type": "learned", "max_length": hf.n_positions},
        "tied": hf.tie_word_embeddings,
    }
    return Recipe.from_dict(recipe).at(
        width=hf.n_embd, n_layers=hf.n_layer, vocab_size=hf.vocab_size
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "model_type": "gpt2",
        **decoder.shape(config),
        "n_head": decoder.heads(config)[0],
        "n_inner": decoder.hidden(config, "mlp"),
        "activation_function": names[recipe.branches["mlp"]["activation"]],
        "n_positions": recipe.positions["max_length"],
        "layer_norm_epsilon": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config, "transformer.wte", "transformer.ln_f")
    found.append(same("final_norm.bias", "transformer.ln_f.bias"))
    found.append(same("positions.weight", "transformer.wpe.weight"))
    for i in range(config.n_layers):
        theirs = f"transformer.h.{i}"
        pairs = {
            f"{branch(i, 0)}.qkv": "attn.c_attn",
            f"{branch(i, 0)}.out": "attn.c_proj",
            f"{branch(i, 1)}.into": "mlp.c_fc",
            f"{branch(i, 1)}.out": "mlp.c_proj",
        }
        for ours, name in pairs.items():
            found.append(transposed(f"{ours}.weight", f"{theirs}.{name}.weight"))
            found.append(same(f"{ours}.bias", f"{theirs}.{name}.bias"))
        for j, name in enumerate(("ln_1", "ln_2")):
            found += both(f"layers.{i}.residuals.{j}.before", f"{theirs}.{name}")
    return found
