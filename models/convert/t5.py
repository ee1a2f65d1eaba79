"""T5, and its version 1.1 (a gated perceptron, logits not scaled)."""

from __future__ import annotations

from typing import Any

from models.convert import decoder
from models.convert.rules import Rule, cat, same
from models.errors import RecipeError
from models.recipe import Encoder, ModelConfig

MODEL_TYPES = ("t5",)
HF_CLASS = {"t5": "T5ForConditionalGeneration"}
ACTIVATIONS = {"relu": "relu", "gated-gelu": "geglu_tanh", "gelu": "gelu", "gated-silu": "swiglu"}


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    if hf.feed_forward_proj not in ACTIVATIONS:
        raise RecipeError(
            ("feed_forward_proj",), hf.feed_forward_proj, ACTIVATIONS, "not converted"
        )
    heads = {"n_heads": hf.num_heads, "head_width": hf.d_kv, "scale": 1.0}
    mlp = {"activation": ACTIVATIONS[hf.feed_forward_proj], "hidden": hf.d_ff}
    recipe = {
        "encoder": {
            "pattern": "attention+mlp",
            "branches": {"attention": {**heads, "causal": False}, "mlp": mlp},
            "n_layers": hf.num_layers,
        },
        "pattern": "attention+cross+mlp",
        "branches": {"attention": heads, "cross": heads, "mlp": mlp},
        "norm": {"type": "rmsnorm", "placement": "pre", "eps": hf.layer_norm_epsilon},
        "positions": {
            "type": "relative",
            "buckets": hf.relative_attention_num_buckets,
            "max_distance": hf.relative_attention_max_distance,
        },
        "objective": "span_corruption",
        "head": {"scaled": hf.scale_decoder_outputs},
        "tied": True,
    }
    return decoder.recipe_of(recipe, hf.d_model, hf.num_decoder_layers, hf.vocab_size)


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    n_heads, _, head_width = decoder.heads(config)
    return {
        "model_type": "t5",
        "vocab_size": config.vocab_size,
        "d_model": config.width,
        "d_kv": head_width,
        "d_ff": decoder.hidden(config, "mlp"),
        "num_layers": len(config.encoder_layers()),
        "num_decoder_layers": config.n_layers,
        "num_heads": n_heads,
        "relative_attention_num_buckets": recipe.positions["buckets"],
        "relative_attention_max_distance": recipe.positions["max_distance"],
        "feed_forward_proj": names[recipe.branches["mlp"]["activation"]],
        "layer_norm_epsilon": recipe.norm.eps,
        "tie_word_embeddings": recipe.head.scaled,
        "pad_token_id": None,
        "eos_token_id": None,
        "decoder_start_token_id": 0,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    assert isinstance(config.recipe.encoder, Encoder)
    found = [same("embedding.weight", "shared.weight")]
    found += _stack(config, "encoder.", "encoder", len(config.encoder_layers()), ["mlp"])
    return found + _stack(config, "", "decoder", config.n_layers, ["cross", "mlp"])


def _stack(
    config: ModelConfig, ours: str, theirs: str, n_layers: int, rest: list[str]
) -> list[Rule]:
    name = "layer.0.SelfAttention.relative_attention_bias.weight"
    found = [
        same(f"{ours}relative.weight", f"{theirs}.block.0.{name}"),
        same(f"{ours}final_norm.weight", f"{theirs}.final_layer_norm.weight"),
    ]
    for i in range(n_layers):
        for j, kind in enumerate(["attention", *rest]):
            place, there = f"{ours}layers.{i}.residuals.{j}", f"{theirs}.block.{i}.layer.{j}"
            found.append(same(f"{place}.before.weight", f"{there}.layer_norm.weight"))
            found += _branch(config, f"{place}.branch", there, kind)
    return found


def _branch(config: ModelConfig, ours: str, theirs: str, kind: str) -> list[Rule]:
    if kind == "attention":
        at = f"{theirs}.SelfAttention"
        fused = cat(f"{ours}.qkv.weight", [f"{at}.{x}.weight" for x in "qkv"])
        return [fused, same(f"{ours}.out.weight", f"{at}.o.weight")]
    if kind == "cross":
        at = f"{theirs}.EncDecAttention"
        fused = cat(f"{ours}.kv.weight", [f"{at}.{x}.weight" for x in "kv"])
        pairs = {"q": "q", "out": "o"}
        return [fused, *(same(f"{ours}.{a}.weight", f"{at}.{b}.weight") for a, b in pairs.items())]
    at, names = f"{theirs}.DenseReluDense", ["wi"]
    if config.recipe.branches["mlp"]["activation"] in ("geglu_tanh", "swiglu"):
        names = ["wi_0", "wi_1"]
    into = cat(f"{ours}.into.weight", [f"{at}.{name}.weight" for name in names])
    return [into, same(f"{ours}.out.weight", f"{at}.wo.weight")]
