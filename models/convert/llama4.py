"""Llama 4's text model: chunked rotary layers and few global ones without positions, experts whose
input is weighed, rotary pairs side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, halves, pairs, same
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("llama4_text",)
UNUSED = ("interleave_moe_layer_step", "no_rope_layer_interval")
HF_CLASS = {"llama4_text": "Llama4ForCausalLM"}


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    mixers = ["chunked" if rotary else "attention" for rotary in hf.no_rope_layers]
    expected = ["chunked_attention" if rotary else "full_attention" for rotary in hf.no_rope_layers]
    if hf.attention_bias or hf.layer_types != expected:
        raise RecipeError(("layer_types",), hf.layer_types, expected, "not converted")
    layers = [f"{x}+{'moe' if i in hf.moe_layers else 'mlp'}" for i, x in enumerate(mixers)]
    options = decoder.attention_options(hf)
    branches = {
        "chunked": {
            "type": "attention",
            **options,
            "chunk": hf.attention_chunk_size,
            "qk_norm": "unit" if hf.use_qk_norm else "none",
        },
        "attention": {
            **options,
            "rotary": False,
            "temperature": hf.attn_scale if hf.attn_temperature_tuning else 0.0,
            "temperature_floor": hf.floor_scale,
        },
        "mlp": {"activation": "swiglu", "hidden": hf.intermediate_size_mlp},
        "moe": {
            "activation": "swiglu",
            "hidden": hf.intermediate_size,
            "n_experts": hf.num_local_experts,
            "top_k": hf.num_experts_per_tok,
            "score": "sigmoid",
            "normalize": False,
            "gate_input": True,
            "shared_hidden": hf.intermediate_size,
        },
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
    branches: Any = config.recipe.branches
    chunked, moe = branches["chunked"], branches["moe"]
    full = branches.get("attention", {"temperature": 0.0, "temperature_floor": 1})
    layers = config.layers()
    return {
        "model_type": "llama4_text",
        **decoder.shape(config),
        **decoder.head_keywords(config, "chunked"),
        **decoder.rope_keywords(config),
        "no_rope_layers": [int(layer[0].name == "chunked") for layer in layers],
        "moe_layers": [i for i, layer in enumerate(layers) if layer[1].name == "moe"],
        "attention_chunk_size": chunked["chunk"],
        "use_qk_norm": chunked["qk_norm"] == "unit",
        "attn_temperature_tuning": bool(full["temperature"]),
        "attn_scale": full["temperature"],
        "floor_scale": full["temperature_floor"],
        "intermediate_size": decoder.hidden(config, "moe"),
        "intermediate_size_mlp": decoder.hidden(config, "mlp" if "mlp" in branches else "moe"),
        "num_local_experts": moe["n_experts"],
        "num_experts_per_tok": moe["top_k"],
        "rms_norm_eps": config.recipe.norm.eps,  # type: ignore[union-attr]
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config)
    for i, (mixer, channel) in enumerate(config.layers()):
        theirs, ours = f"model.layers.{i}", branch(i, 1)
        found += _attention(config, mixer.name, branch(i, 0), f"{theirs}.self_attn")
        found.append(same(norm(i, 0), f"{theirs}.input_layernorm.weight"))
        found.append(same(norm(i, 1), f"{theirs}.post_attention_layernorm.weight"))
        if channel.name == "mlp":
            found += decoder.gated_mlp(ours, f"{theirs}.feed_forward")
            continue
        found += decoder.gated_mlp(f"{ours}.shared", f"{theirs}.feed_forward.shared_expert")
        found += [
            same(f"{ours}.router.gate.weight", f"{theirs}.feed_forward.router.weight"),
            same(f"{ours}.into_EDI", f"{theirs}.feed_forward.experts.gate_up_proj"),
            same(f"{ours}.out_EID", f"{theirs}.feed_forward.experts.down_proj"),
        ]
    return found


def _attention(config: ModelConfig, name: str, ours: str, theirs: str) -> list[Rule]:
    n_heads, n_kv_heads, head_width = decoder.heads(config, name)
    counts = [n_heads, n_kv_heads]
    sizes = [n * head_width for n in (*counts, n_kv_heads)]

    def join(xs: list[Tensor]) -> Tensor:
        turned = [halves(x, n) for x, n in zip(xs[:2], counts, strict=True)]
        return torch.cat([*turned, xs[2]])

    def split(x: Tensor) -> list[Tensor]:
        parts = torch.split(x, sizes)
        return [*(pairs(x, n) for x, n in zip(parts[:2], counts, strict=True)), parts[2]]

    names = tuple(f"{theirs}.{x}_proj.weight" for x in "qkv")
    return [
        Rule(f"{ours}.qkv.weight", names, join, split),
        same(f"{ours}.out.weight", f"{theirs}.o_proj.weight"),
    ]
