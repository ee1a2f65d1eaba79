"""What the families of LLaMA's layout share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.channels.activation import hidden_width
from models.convert.rules import Rule, both, cat, same, transposed
from models.errors import RecipeError
from models.limits import head_width_for
from models.recipe import ModelConfig, Recipe
from models.spec import StackSpec

Norm = Callable[[str, str], Rule]


def recipe_at(hf: Any, **recipe: Any) -> ModelConfig:
    """The recipe at the shape of a LLaMA-like config."""
    return recipe_of(recipe, hf.hidden_size, hf.num_hidden_layers, hf.vocab_size)


def recipe_of(recipe: dict[str, Any], width: int, n_layers: int, vocab_size: int) -> ModelConfig:
    """The recipe at a shape."""
    return Recipe.from_dict(recipe).at(width=width, n_layers=n_layers, vocab_size=vocab_size)


def attention_options(hf: Any, **more: Any) -> dict[str, Any]:
    """Heads of a LLaMA-like config."""
    head_width = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    return {
        "n_heads": hf.num_attention_heads,
        "head_width": head_width,
        "n_kv_heads": getattr(hf, "num_key_value_heads", None) or hf.num_attention_heads,
        **more,
    }


def shortest(layers: list[str]) -> str:
    """The shortest pattern that repeats to these layers."""
    for period in range(1, len(layers) + 1):
        if len(layers) % period == 0 and layers == layers[:period] * (len(layers) // period):
            break
    return " ".join(layers[:period])


def used(layers: list[str], branches: dict[str, Any]) -> dict[str, Any]:
    """Those of the branches that these layers name."""
    names = {name for layer in layers for name in layer.split("+")}
    return {name: options for name, options in branches.items() if name in names}


def routed(hf: Any) -> dict[str, Any]:
    """The experts of a Qwen config, with a gated shared one."""
    return {
        "activation": "swiglu",
        "hidden": hf.moe_intermediate_size,
        "n_experts": hf.num_experts,
        "top_k": hf.num_experts_per_tok,
        "normalize": hf.norm_topk_prob,
        "shared_hidden": hf.shared_expert_intermediate_size,
        "shared_gate": True,
    }


def routed_keywords(config: ModelConfig) -> dict[str, Any]:
    """A Qwen config's experts of ours."""
    moe = config.recipe.branches["moe"]
    return {
        "moe_intermediate_size": hidden(config, "moe"),
        "num_experts": moe["n_experts"],
        "num_experts_per_tok": moe["top_k"],
        "norm_topk_prob": moe["normalize"] is not False and moe["top_k"] > 1,
        "shared_expert_intermediate_size": moe["shared_hidden"],
    }


def routed_rules(ours: str, theirs: str) -> list[Rule]:
    """Those experts, weight by weight."""
    return [
        *experts(ours, theirs),
        *gated_mlp(f"{ours}.shared", f"{theirs}.shared_expert"),
        same(f"{ours}.shared_gate.weight", f"{theirs}.shared_expert_gate.weight"),
    ]


def rope(hf: Any) -> dict[str, Any]:
    """Rotary positions of a config."""
    parameters = hf.rope_parameters
    kind = parameters["rope_type"]
    if kind not in ("default", "yarn"):
        raise RecipeError(("rope_type",), kind, ["default", "yarn"], "not converted")
    scaling = {}
    if kind == "yarn":
        scaling = {
            "scaling": kind,
            "factor": float(parameters["factor"]),
            "original_length": parameters["original_max_position_embeddings"],
        }
    return {
        "type": "rope",
        "theta": float(parameters["rope_theta"]),
        "fraction": parameters.get("partial_rotary_factor", 1.0),
        **scaling,
    }


def shape(config: ModelConfig) -> dict[str, Any]:
    """The keywords of any config that speak of the whole model."""
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.n_layers,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.recipe.tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def heads(
    config: ModelConfig, name: str = "attention", spec: StackSpec | None = None
) -> tuple[int, int, int]:
    """Heads, key/value heads and head width of an attention branch, of the decoder or of `spec`."""
    options = (spec or config.recipe).branches[name]
    if options["n_heads"] and options["head_width"]:
        n_heads, head_width = options["n_heads"], options["head_width"]
    elif options["n_heads"]:
        n_heads, head_width = options["n_heads"], config.width // options["n_heads"]
    else:
        head_width = options["head_width"] or head_width_for(config.width)
        n_heads = config.width // head_width
    if options.get("queries_per_kv"):
        return n_heads, n_heads // options["queries_per_kv"], head_width
    return n_heads, options.get("n_kv_heads") or n_heads, head_width


def head_keywords(config: ModelConfig, name: str = "attention") -> dict[str, Any]:
    """Heads as a LLaMA-like config says them."""
    n_heads, n_kv_heads, head_width = heads(config, name)
    return {
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": head_width,
    }


def rope_keywords(config: ModelConfig) -> dict[str, Any]:
    """Rotary positions as a config says them."""
    positions: Any = config.recipe.positions
    parameters = {
        "rope_type": "default" if positions["scaling"] == "none" else positions["scaling"],
        "rope_theta": float(positions["theta"]),
        "partial_rotary_factor": positions["fraction"],
    }
    if positions["scaling"] == "yarn":
        parameters |= {
            "factor": positions["factor"],
            "original_max_position_embeddings": positions["original_length"],
        }
    return {"rope_parameters": parameters}


def branch(layer: int, index: int) -> str:
    """The path of a branch."""
    return f"layers.{layer}.residuals.{index}.branch"


def norm(layer: int, index: int, place: str = "before") -> str:
    """The path of a norm's weight."""
    return f"layers.{layer}.residuals.{index}.{place}.weight"


def attention(
    config: ModelConfig, ours: str, theirs: str, name: str = "attention", out: str = "o_proj"
) -> list[Rule]:
    """Fused q, k, v here, three matrices there."""
    n_heads, n_kv_heads, head_width = heads(config, name)
    options = config.recipe.branches[name]
    sizes = [n * head_width for n in (n_heads, n_kv_heads, n_kv_heads)]
    parts = ["weight", "bias"] if options["bias"] else ["weight"]
    rules = [
        cat(f"{ours}.qkv.{p}", [f"{theirs}.{x}_proj.{p}" for x in "qkv"], sizes) for p in parts
    ]
    if options["qk_norm"] != "none":
        rules += [same(f"{ours}.{x}_norm.weight", f"{theirs}.{x}_norm.weight") for x in "qk"]
    if options["out_bias"]:
        return [*rules, *both(f"{ours}.out", f"{theirs}.{out}")]
    return [*rules, same(f"{ours}.out.weight", f"{theirs}.{out}.weight")]


def joined(ours: str, theirs: list[str]) -> list[Rule]:
    """One matrix and bias here, equal parts there."""
    parts = ("weight", "bias")
    return [cat(f"{ours}.{part}", [f"{name}.{part}" for name in theirs]) for part in parts]


def gated_mlp(ours: str, theirs: str) -> list[Rule]:
    """Fused gate and value here, two matrices there."""
    return [
        cat(f"{ours}.into.weight", [f"{theirs}.gate_proj.weight", f"{theirs}.up_proj.weight"]),
        same(f"{ours}.out.weight", f"{theirs}.down_proj.weight"),
    ]


def experts(ours: str, theirs: str) -> list[Rule]:
    """Router and stacked experts, matrices the other way round."""
    return [
        same(f"{ours}.router.gate.weight", f"{theirs}.gate.weight"),
        transposed(f"{ours}.into_EDI", f"{theirs}.experts.gate_up_proj"),
        transposed(f"{ours}.out_EID", f"{theirs}.experts.down_proj"),
    ]


def ends(
    config: ModelConfig,
    embedding: str = "model.embed_tokens",
    final_norm: str = "model.norm",
    make: Norm = same,
) -> list[Rule]:
    """Embedding, last norm, head."""
    rules = [
        same("embedding.weight", f"{embedding}.weight"),
        make("final_norm.weight", f"{final_norm}.weight"),
    ]
    return rules if config.recipe.tied else [*rules, same("head.weight", "lm_head.weight")]


def sample(config: ModelConfig, name: str) -> Any:
    """One branch as built, to ask what its options came to."""
    from models.assembly import sample_branch

    return sample_branch(config, name)


def hidden(config: ModelConfig, name: str, spec: StackSpec | None = None) -> int:
    """The hidden width of an `mlp` or of an expert of a `moe`, of the decoder or of `spec`."""
    options = (spec or config.recipe).branches[name]
    return options["hidden"] or hidden_width(
        config.width, options["activation"], options["expansion"], options["multiple"]
    )
