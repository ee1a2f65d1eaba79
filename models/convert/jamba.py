"""Jamba: Mamba and attention layers, MLPs and experts, by their periods."""

from __future__ import annotations

import math
from typing import Any

from models.convert import decoder, mamba
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, same, transposed
from models.recipe import ModelConfig

MODEL_TYPES = ("jamba",)


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    period = math.lcm(hf.attn_layer_period, hf.expert_layer_period)
    kinds = hf.layers_block_type[:period]
    counts = hf.layers_num_experts[:period]
    layers = [f"{kind}+{'moe' if n > 1 else 'mlp'}" for kind, n in zip(kinds, counts, strict=True)]
    branches = {
        "attention": decoder.attention_options(hf),
        "mamba": {
            "n_states": hf.mamba_d_state,
            "n_taps": hf.mamba_d_conv,
            "expansion": float(hf.mamba_expand),
            "dt_rank": hf.mamba_dt_rank,
            "bias": hf.mamba_proj_bias,
            "conv_bias": hf.mamba_conv_bias,
            "inner_norm": "weighted",
        },
        "mlp": {"activation": "swiglu", "hidden": hf.intermediate_size},
        "moe": {
            "activation": "swiglu",
            "hidden": hf.intermediate_size,
            "n_experts": hf.num_experts,
            "top_k": hf.num_experts_per_tok,
            "normalize": False,
        },
    }
    return decoder.recipe_at(
        hf,
        pattern=" ".join(layers),
        branches=decoder.used(layers, branches),
        norm={"type": "rmsnorm", "placement": "pre", "eps": hf.rms_norm_eps},
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    from models.assembly import sample_branch

    recipe: Any = config.recipe
    options, moe = recipe.branches["mamba"], recipe.branches["moe"]
    attn_period, attn_offset = _period(config, "attention")
    expert_period, expert_offset = _period(config, "moe")
    return {
        "model_type": "jamba",
        **decoder.shape(config),
        **decoder.head_keywords(config),
        "attn_layer_period": attn_period,
        "attn_layer_offset": attn_offset,
        "expert_layer_period": expert_period,
        "expert_layer_offset": expert_offset,
        "mamba_d_state": options["n_states"],
        "mamba_d_conv": options["n_taps"],
        "mamba_expand": int(options["expansion"]),
        "mamba_dt_rank": sample_branch(config, "mamba").dt_rank,
        "mamba_proj_bias": options["bias"],
        "mamba_conv_bias": options["conv_bias"],
        "use_mamba_kernels": False,
        "intermediate_size": decoder.hidden(config, "moe"),
        "num_experts": moe["n_experts"],
        "num_experts_per_tok": moe["top_k"],
        "rms_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config, final_norm="model.final_layernorm")
    for i, (mixer, channel) in enumerate(config.layers()):
        theirs, ours = f"model.layers.{i}", branch(i, 0)
        found.append(same(norm(i, 0), f"{theirs}.input_layernorm.weight"))
        found.append(same(norm(i, 1), f"{theirs}.pre_ff_layernorm.weight"))
        if mixer.name == "attention":
            found += decoder.attention(config, ours, f"{theirs}.self_attn")
        else:
            found += mamba.block(config.recipe.branches["mamba"], ours, f"{theirs}.mamba")
            found += [
                same(f"{ours}.norms.{j}.weight", f"{theirs}.mamba.{x}_layernorm.weight")
                for j, x in enumerate(("dt", "b", "c"))
            ]
        found += _channel(channel.name, branch(i, 1), f"{theirs}.feed_forward")
    return found


def _channel(name: str, ours: str, theirs: str) -> list[Rule]:
    if name == "mlp":
        return decoder.gated_mlp(ours, theirs)
    return [
        same(f"{ours}.router.gate.weight", f"{theirs}.router.weight"),
        transposed(f"{ours}.into_EDI", f"{theirs}.experts.gate_up_proj"),
        transposed(f"{ours}.out_EID", f"{theirs}.experts.down_proj"),
    ]


def _period(config: ModelConfig, name: str) -> tuple[int, int]:
    """How often a branch comes in the pattern, and where first."""
    layers = config.recipe.layers
    where = [i for i, layer in enumerate(layers) if name in {use.name for use in layer}]
    return (len(layers) // len(where), where[0]) if where else (2 * len(layers) + 1, len(layers))
