"""Nemotron-H: Mamba-2, attention, MLPs and experts, each a layer of its own."""

from __future__ import annotations

from typing import Any

from models.convert import decoder, mamba
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, same, transposed
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("nemotron_h",)
UNUSED = ("intermediate_size", "expand", "mtp_layers_block_type", "moe_shared_expert_overlap")
NAMES = {
    "linear_attention": "mamba2",
    "full_attention": "attention",
    "mlp": "mlp",
    "moe": "moe",
}
THEIRS = {ours: theirs for theirs, ours in NAMES.items()}


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    for name, allowed in (
        ("attention_bias", False),
        ("mlp_bias", False),
        ("moe_latent_size", None),
    ):
        if getattr(hf, name) != allowed:
            raise RecipeError((name,), getattr(hf, name), [allowed], "not converted")
    layers = [NAMES[kind] for kind in hf.layers_block_type]
    branches = {
        "mamba2": {
            "n_states": hf.ssm_state_size,
            "expansion": hf.mamba_num_heads * hf.mamba_head_dim / hf.hidden_size,
            "head_width": hf.mamba_head_dim,
            "n_groups": hf.n_groups,
            "n_taps": hf.conv_kernel,
            "bias": hf.use_bias,
            "conv_bias": hf.use_conv_bias,
            "dt_floor": hf.time_step_min,
        },
        "attention": decoder.attention_options(hf),
        "mlp": {"activation": hf.mlp_hidden_act, "hidden": hf.intermediate_size},
        "moe": {
            "activation": hf.mlp_hidden_act,
            "hidden": hf.moe_intermediate_size,
            "n_experts": hf.n_routed_experts,
            "top_k": hf.num_experts_per_tok,
            "score": "sigmoid",
            "normalize": hf.norm_topk_prob,
            "scale": float(hf.routed_scaling_factor),
            "selection_bias": True,
            "n_groups": hf.n_group,
            "top_groups": hf.topk_group,
            "shared_hidden": hf.moe_shared_expert_intermediate_size,
        },
    }
    return decoder.recipe_at(
        hf,
        pattern=decoder.shortest(layers),
        branches={name: options for name, options in branches.items() if name in layers},
        norm={"type": "rmsnorm", "placement": "pre", "eps": hf.layer_norm_epsilon},
        tied=False,  # theirs never shares the two matrices, whatever its config says
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    branches, mamba2 = recipe.branches, decoder.sample(config, "mamba2")
    shape = decoder.shape(config)
    del shape["num_hidden_layers"]  # theirs is the length of the list
    keywords = {
        "model_type": "nemotron_h",
        **shape,
        "layers_block_type": [THEIRS[layer[0].name] for layer in config.layers()],
        "ssm_state_size": mamba2.n_states,
        "mamba_num_heads": mamba2.n_heads,
        "mamba_head_dim": mamba2.head_width,
        "n_groups": mamba2.n_groups,
        "conv_kernel": mamba2.conv.n_taps,
        "use_bias": branches["mamba2"]["bias"],
        "use_conv_bias": branches["mamba2"]["conv_bias"],
        "time_step_min": mamba2.dt_floor,
        "layer_norm_epsilon": recipe.norm.eps,
    }
    if "attention" in branches:
        keywords |= decoder.head_keywords(config)
    for name in {"mlp", "moe"} & set(branches):
        keywords["mlp_hidden_act"] = branches[name]["activation"]
    if "mlp" in branches:
        keywords["intermediate_size"] = decoder.hidden(config, "mlp")
    if "moe" in branches:
        keywords |= _experts(config)
    return keywords


def _experts(config: ModelConfig) -> dict[str, Any]:
    moe: Any = config.recipe.branches["moe"]
    return {
        "moe_intermediate_size": decoder.hidden(config, "moe"),
        "n_routed_experts": moe["n_experts"],
        "num_experts_per_tok": moe["top_k"],
        "norm_topk_prob": moe["normalize"] is not False,
        "routed_scaling_factor": moe["scale"],
        "n_group": moe["n_groups"],
        "topk_group": moe["top_groups"],
        "moe_shared_expert_intermediate_size": moe["shared_hidden"],
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config, "model.embeddings", "model.norm_f")
    for i, (use,) in enumerate(config.layers()):
        ours, theirs = branch(i, 0), f"model.layers.{i}.mixer"
        found.append(same(norm(i, 0), f"model.layers.{i}.norm.weight"))
        if use.name == "mamba2":
            found += mamba.block(config.recipe.branches["mamba2"], ours, theirs)
            found.append(same(f"{ours}.norm.weight", f"{theirs}.norm.weight"))
        elif use.name == "attention":
            found += decoder.attention(config, ours, theirs)
        elif use.name == "mlp":
            found += _mlp(ours, theirs)
        else:
            bias = "gate.e_score_correction_bias"
            found += _mlp(f"{ours}.shared", f"{theirs}.shared_experts")
            found += [
                same(f"{ours}.router.gate.weight", f"{theirs}.gate.weight"),
                same(f"{ours}.router.bias_E", f"{theirs}.{bias}"),
                transposed(f"{ours}.into_EDI", f"{theirs}.experts.up_proj"),
                transposed(f"{ours}.out_EID", f"{theirs}.experts.down_proj"),
            ]
    return found


def _mlp(ours: str, theirs: str) -> list[Rule]:
    return [
        same(f"{ours}.into.weight", f"{theirs}.up_proj.weight"),
        same(f"{ours}.out.weight", f"{theirs}.down_proj.weight"),
    ]
