"""Qwen3-Next: gated delta and gated attention layers, experts beside a gated shared one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, mapped, plus_one, same
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("qwen3_next",)
UNUSED = ("intermediate_size",)
MIXERS = {"linear_attention": "gated_delta", "full_attention": "attention"}
NAMES = {ours: theirs for theirs, ours in MIXERS.items()}


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    if hf.mlp_only_layers or hf.decoder_sparse_step != 1:
        raise RecipeError(("mlp_only_layers",), hf.mlp_only_layers, "experts in all layers", "no")
    layers = [f"{MIXERS[kind]}+moe" for kind in hf.layer_types]
    branches = {
        "gated_delta": {
            "n_heads": hf.linear_num_value_heads,
            "head_width": hf.linear_key_head_dim,
            "n_key_heads": hf.linear_num_key_heads,
            "v_width": hf.linear_value_head_dim,
            "n_taps": hf.linear_conv_kernel_dim,
        },
        "attention": decoder.attention_options(
            hf, qk_norm="head", gate=True, bias=hf.attention_bias, out_bias=hf.attention_bias
        ),
        "moe": decoder.routed(hf),
    }
    return decoder.recipe_at(
        hf,
        pattern=decoder.shortest(layers),
        branches=decoder.used(layers, branches),
        norm={"type": "rmsnorm", "placement": "pre", "eps": hf.rms_norm_eps},
        positions=decoder.rope(hf),
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    delta: Any = decoder.sample(config, "gated_delta")
    return {
        "model_type": "qwen3_next",
        **decoder.shape(config),
        **decoder.head_keywords(config),
        **decoder.rope_keywords(config),
        "attention_bias": recipe.branches["attention"]["bias"],
        "layer_types": [NAMES[layer[0].name] for layer in config.layers()],
        "linear_num_value_heads": delta.n_heads,
        "linear_num_key_heads": delta.n_key_heads,
        "linear_key_head_dim": delta.head_width,
        "linear_value_head_dim": delta.v_width,
        "linear_conv_kernel_dim": delta.n_taps,
        **decoder.routed_keywords(config),
        "rms_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config, make=plus_one)
    for i, (mixer, _) in enumerate(config.layers()):
        theirs = f"model.layers.{i}"
        if mixer.name == "attention":
            found += _attention(config, branch(i, 0), f"{theirs}.self_attn")
        else:
            found += _delta(config, branch(i, 0), f"{theirs}.linear_attn")
        found += decoder.routed_rules(branch(i, 1), f"{theirs}.mlp")
        found.append(plus_one(norm(i, 0), f"{theirs}.input_layernorm.weight"))
        found.append(plus_one(norm(i, 1), f"{theirs}.post_attention_layernorm.weight"))
    return found


def _attention(config: ModelConfig, ours: str, theirs: str) -> list[Rule]:
    """Their query projection holds a query and its gate head by head; ours has the gates last."""
    n_heads, n_kv_heads, head_width = decoder.heads(config)
    inner, keys = n_heads * head_width, n_kv_heads * head_width

    def join(xs: list[Tensor]) -> Tensor:
        query, gate = xs[0].view(n_heads, 2, head_width, -1).unbind(1)
        flat = (x.reshape(inner, *xs[0].shape[1:]) for x in (query, gate))
        return torch.cat([next(flat), *xs[1:], *flat])

    def split(x: Tensor) -> list[Tensor]:
        query, key, value, gate = torch.split(x, [inner, keys, keys, inner])
        both = [part.view(n_heads, head_width, -1) for part in (query, gate)]
        return [torch.stack(both, 1).reshape(2 * inner, *x.shape[1:]), key, value]

    biased = config.recipe.branches["attention"]["bias"]
    parts = ["weight", "bias"] if biased else ["weight"]
    found = [
        Rule(f"{ours}.qkv.{p}", tuple(f"{theirs}.{x}_proj.{p}" for x in "qkv"), join, split)
        for p in parts
    ]
    found += [same(f"{ours}.out.{p}", f"{theirs}.o_proj.{p}") for p in parts]
    return found + [plus_one(f"{ours}.{x}_norm.weight", f"{theirs}.{x}_norm.weight") for x in "qk"]


def _delta(config: ModelConfig, ours: str, theirs: str) -> list[Rule]:
    """Both fuse by key head: there q, k, v, z and b, a; here q, k, v of all, then z, a and b. Their
    convolution has all q first, then all k, all v."""
    delta = decoder.sample(config, "gated_delta")
    H, G, K, V = delta.n_heads, delta.n_key_heads, delta.head_width, delta.v_width
    widths = [2 * K + H // G * V, H // G * V, H // G, H // G]

    def join(xs: list[Tensor]) -> Tensor:
        mixed, z = torch.split(xs[0].view(G, -1, config.width), widths[:2], 1)
        b, a = torch.split(xs[1].view(G, -1, config.width), widths[2:], 1)
        return torch.cat([x.flatten(0, 1) for x in (mixed, z, a, b)])

    def split(x: Tensor) -> list[Tensor]:
        parts = torch.split(x, [G * width for width in widths])
        mixed, z, a, b = (part.view(G, -1, config.width) for part in parts)
        return [torch.cat(pair, 1).flatten(0, 1) for pair in ((mixed, z), (b, a))]

    def by_head(x: Tensor) -> Tensor:
        q, k, v = torch.split(x[:, 0], [G * K, G * K, H * V])
        return torch.cat([part.view(G, -1, x.shape[-1]) for part in (q, k, v)], 1).flatten(0, 1)

    def by_kind(x: Tensor) -> Tensor:
        parts = torch.split(x.view(G, -1, x.shape[-1]), [K, K, H // G * V], 1)
        return torch.cat([part.flatten(0, 1) for part in parts])[:, None]

    names = (f"{theirs}.in_proj_qkvz.weight", f"{theirs}.in_proj_ba.weight")
    return [
        Rule(f"{ours}.into.weight", names, join, split),
        mapped(f"{ours}.conv.weight_IQ", f"{theirs}.conv1d.weight", by_head, by_kind),
        same(f"{ours}.log_A_H", f"{theirs}.A_log"),
        same(f"{ours}.dt_bias", f"{theirs}.dt_bias"),
        same(f"{ours}.norm.weight", f"{theirs}.norm.weight"),
        same(f"{ours}.out.weight", f"{theirs}.out_proj.weight"),
    ]
