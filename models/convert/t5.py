"""T5, and its version 1.1 (a gated perceptron, logits not scaled)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from models.channels.activation import is_gated
from models.convert import decoder
from models.convert.rules import Rule, cat, same
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("t5",)
HF_CLASS = {"t5": "T5ForConditionalGeneration"}
ACTIVATIONS = {"relu": "relu", "gated-gelu": "geglu_tanh", "gelu": "gelu", "gated-silu": "swiglu"}
Feed = Callable[[ModelConfig, str, str, str], list[Rule]]


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    if hf.feed_forward_proj not in ACTIVATIONS:
        raise RecipeError(
            ("feed_forward_proj",), hf.feed_forward_proj, ACTIVATIONS, "not converted"
        )
    heads = attention(hf)
    mlp = {"activation": ACTIVATIONS[hf.feed_forward_proj], "hidden": hf.d_ff}
    encoder = {
        "pattern": "attention+mlp",
        "branches": {"attention": {**heads, "causal": False}, "mlp": mlp},
    }
    return of_stacks(
        hf,
        encoder=encoder,
        pattern="attention+cross+mlp",
        branches={"attention": heads, "cross": heads, "mlp": mlp},
        head={"scaled": hf.scale_decoder_outputs},
        tied=True,
    )


def attention(hf: Any) -> dict[str, Any]:
    """Heads of a config of T5's kind."""
    return {"n_heads": hf.num_heads, "head_width": hf.d_kv, "scale": 1.0}


def of_stacks(hf: Any, encoder: dict[str, Any], **recipe: Any) -> ModelConfig:
    """Ours of theirs, from the stacks."""
    common = {
        "encoder": {**encoder, "n_layers": hf.num_layers},
        "norm": {"type": "rmsnorm", "placement": "pre", "eps": hf.layer_norm_epsilon},
        "positions": {
            "type": "relative",
            "buckets": hf.relative_attention_num_buckets,
            "max_distance": hf.relative_attention_max_distance,
        },
        "objective": "span_corruption",
    }
    return decoder.recipe_of({**common, **recipe}, hf.d_model, hf.num_decoder_layers, hf.vocab_size)


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return keywords(config) | {
        "model_type": "t5",
        "feed_forward_proj": names[recipe.branches["mlp"]["activation"]],
        "tie_word_embeddings": recipe.head.scaled,
    }


def keywords(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours, but for what follows attention in a layer."""
    recipe: Any = config.recipe
    n_heads, _, head_width = decoder.heads(config)
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.width,
        "d_kv": head_width,
        "d_ff": decoder.hidden(config, "mlp" if "mlp" in recipe.branches else "moe"),
        "num_layers": len(config.encoder_layers()),
        "num_decoder_layers": config.n_layers,
        "num_heads": n_heads,
        "relative_attention_num_buckets": recipe.positions["buckets"],
        "relative_attention_max_distance": recipe.positions["max_distance"],
        "layer_norm_epsilon": recipe.norm.eps,
        "pad_token_id": None,
        "eos_token_id": None,
        "decoder_start_token_id": 0,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    return stacks(config, _dense)


def stacks(config: ModelConfig, feed: Feed) -> list[Rule]:
    """The vectors and both stacks; `feed` gives the rules of what follows attention in a layer, by
    its path here, that of its layer there and its name."""
    found = [same("embedding.weight", "shared.weight")]
    for ours, theirs, layers in (
        ("encoder.", "encoder", config.encoder_layers()),
        ("", "decoder", config.layers()),
    ):
        bias = "layer.0.SelfAttention.relative_attention_bias.weight"
        found.append(same(f"{ours}relative.weight", f"{theirs}.block.0.{bias}"))
        found.append(same(f"{ours}final_norm.weight", f"{theirs}.final_layer_norm.weight"))
        for i, uses in enumerate(layers):
            for j, use in enumerate(uses):
                place, there = f"{ours}layers.{i}.residuals.{j}", f"{theirs}.block.{i}.layer.{j}"
                found.append(same(f"{place}.before.weight", f"{there}.layer_norm.weight"))
                attends = use.name in ("attention", "cross")
                make = _attention if attends else partial(feed, config)
                found += make(f"{place}.branch", there, use.name)
    return found


def _attention(ours: str, theirs: str, name: str) -> list[Rule]:
    if name == "attention":
        at = f"{theirs}.SelfAttention"
        fused = cat(f"{ours}.qkv.weight", [f"{at}.{x}.weight" for x in "qkv"])
        return [fused, same(f"{ours}.out.weight", f"{at}.o.weight")]
    at = f"{theirs}.EncDecAttention"
    return [
        same(f"{ours}.q.weight", f"{at}.q.weight"),
        cat(f"{ours}.kv.weight", [f"{at}.{x}.weight" for x in "kv"]),
        same(f"{ours}.out.weight", f"{at}.o.weight"),
    ]


def _dense(config: ModelConfig, ours: str, theirs: str, name: str) -> list[Rule]:
    at, is_one = (
        f"{theirs}.DenseReluDense",
        not is_gated(config.recipe.branches[name]["activation"]),
    )
    names = ["wi"] if is_one else ["wi_0", "wi_1"]
    into = cat(f"{ours}.into.weight", [f"{at}.{name}.weight" for name in names])
    return [into, same(f"{ours}.out.weight", f"{at}.wo.weight")]
