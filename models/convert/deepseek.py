"""DeepSeek-V2 and -V3: latent attention, groups of experts, a selection bias in V3.

Their rotary pairs lie side by side, ours half a head apart: the rows that make them are reordered.
"""

from __future__ import annotations

from typing import Any

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, halved, same
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("deepseek_v2", "deepseek_v3")


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    v3 = hf.model_type == "deepseek_v3"
    if hf.rope_parameters["rope_type"] != "default":
        raise RecipeError(("rope_type",), hf.rope_parameters["rope_type"], ["default"], "no")
    grouped = v3 or hf.topk_method == "group_limited_greedy"
    dense = ["mla+mlp"] * hf.first_k_dense_replace
    return decoder.recipe_at(
        hf,
        prefix=" ".join(dense),
        pattern="mla+moe",
        branches=decoder.used(
            [*dense, "mla+moe"],
            {
                "mla": {
                    "n_heads": hf.num_attention_heads,
                    "nope_width": hf.qk_nope_head_dim,
                    "rope_width": hf.qk_rope_head_dim,
                    "v_width": hf.v_head_dim,
                    "kv_rank": hf.kv_lora_rank,
                    "q_rank": hf.q_lora_rank,
                    "bias": hf.attention_bias,
                },
                "mlp": {"activation": "swiglu", "hidden": hf.intermediate_size},
                "moe": {
                    "activation": "swiglu",
                    "hidden": hf.moe_intermediate_size,
                    "n_experts": hf.n_routed_experts,
                    "top_k": hf.num_experts_per_tok,
                    "score": "sigmoid" if v3 else "softmax",
                    "normalize": v3 and hf.norm_topk_prob,
                    "scale": float(hf.routed_scaling_factor),
                    "selection_bias": v3,
                    "n_groups": hf.n_group if grouped else 1,
                    "top_groups": hf.topk_group if grouped else 1,
                    "shared_hidden": hf.n_shared_experts * hf.moe_intermediate_size,
                },
            },
        ),
        norm={"type": "rmsnorm", "placement": "pre", "eps": hf.rms_norm_eps},
        positions=decoder.rope(hf),
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    mla, moe = _mla(config), recipe.branches["moe"]
    grouped = moe["n_groups"] > 1
    kind: dict[str, Any] = (
        {"model_type": "deepseek_v3", "norm_topk_prob": moe["normalize"] is not False}
        if moe["selection_bias"]
        else {
            "model_type": "deepseek_v2",
            "topk_method": "group_limited_greedy" if grouped else "greedy",
        }
    )
    return {
        **kind,
        **decoder.shape(config),
        **decoder.rope_keywords(config),
        "num_attention_heads": mla.n_heads,
        "num_key_value_heads": mla.n_heads,
        "head_dim": mla.rope_width,
        "qk_nope_head_dim": mla.nope_width,
        "qk_rope_head_dim": mla.rope_width,
        "v_head_dim": mla.v_width,
        "kv_lora_rank": mla.kv_rank,
        "q_lora_rank": recipe.branches["mla"]["q_rank"],
        "attention_bias": recipe.branches["mla"]["bias"],
        "first_k_dense_replace": len(recipe.first_layers),
        "intermediate_size": decoder.hidden(config, "mlp" if recipe.first_layers else "moe"),
        "moe_intermediate_size": decoder.hidden(config, "moe"),
        "n_routed_experts": moe["n_experts"],
        "num_experts_per_tok": moe["top_k"],
        "n_group": moe["n_groups"],
        "topk_group": moe["top_groups"],
        "routed_scaling_factor": moe["scale"],
        "n_shared_experts": moe["shared_hidden"] // decoder.hidden(config, "moe"),
        "rms_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config)
    dense = len(config.recipe.first_layers)
    for i in range(config.n_layers):
        theirs = f"model.layers.{i}"
        found += _attention(config, branch(i, 0), f"{theirs}.self_attn")
        found.append(same(norm(i, 0), f"{theirs}.input_layernorm.weight"))
        found.append(same(norm(i, 1), f"{theirs}.post_attention_layernorm.weight"))
        if i < dense:
            found += decoder.gated_mlp(branch(i, 1), f"{theirs}.mlp")
            continue
        moe = branch(i, 1)
        found += decoder.experts(moe, f"{theirs}.mlp")
        found += decoder.gated_mlp(f"{moe}.shared", f"{theirs}.mlp.shared_experts")
        if config.recipe.branches["moe"]["selection_bias"]:
            bias = "mlp.gate.e_score_correction_bias"
            found.append(same(f"{moe}.router.bias_E", f"{theirs}.{bias}"))
    return found


def _attention(config: ModelConfig, ours: str, theirs: str) -> list[Rule]:
    mla = _mla(config)
    names = {"kv_norm": "kv_a_layernorm", "kv": "kv_b_proj", "out": "o_proj"}
    if mla.q_a is not None:
        names |= {"q_a": "q_a_proj", "q_norm": "q_a_layernorm"}
    query = "q_proj" if mla.q_a is None else "q_b_proj"
    found = [same(f"{ours}.{a}.weight", f"{theirs}.{b}.weight") for a, b in names.items()]
    for part, name, n, plain in (
        ("q", query, mla.n_heads, mla.nope_width),
        ("kv_a", "kv_a_proj_with_mqa", 1, mla.kv_rank),
    ):
        found.append(halved(f"{ours}.{part}.weight", f"{theirs}.{name}.weight", n, plain))
    if mla.kv_a.bias is not None:
        found.append(
            halved(f"{ours}.kv_a.bias", f"{theirs}.kv_a_proj_with_mqa.bias", 1, mla.kv_rank)
        )
        found += [same(f"{ours}.{a}.bias", f"{theirs}.{names[a]}.bias") for a in ("out", "q_a")]
    return found


def _mla(config: ModelConfig) -> Any:
    from models.assembly import sample_branch

    return sample_branch(config, "mla")
