"""xLSTM, of matrix memories alone."""

from __future__ import annotations

from typing import Any

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, cat, same
from models.errors import RecipeError
from models.mixers.mlstm import EPS
from models.recipe import ModelConfig

MODEL_TYPES = ("xlstm",)
HF_CLASS = {"xlstm": "xLSTMForCausalLM"}
FIXED = {"use_bias": False, "add_out_norm": True, "weight_mode": "single", "eps": EPS}


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    for name, value in FIXED.items():
        if getattr(hf, name) != value:
            raise RecipeError((name,), getattr(hf, name), [value], "not converted")
    n_heads, width = hf.num_heads, hf.hidden_size
    step = hf.ffn_round_up_to_multiple_of
    hidden = int((width * hf.ffn_proj_factor + step - 1) // step) * step
    return decoder.recipe_at(
        hf,
        pattern="mlstm+mlp",
        branches={
            "mlstm": {
                "n_heads": n_heads,
                "head_width": int(width * hf.v_dim_factor) // n_heads,
                "k_width": int(width * hf.qk_dim_factor) // n_heads,
                "gate_softcap": hf.gate_soft_cap,
            },
            "mlp": {"activation": "swiglu", "hidden": hidden},
        },
        norm={"type": "rmsnorm", "placement": "pre", "eps": hf.norm_eps},
        logit_softcap=hf.output_logit_soft_cap,
        tied=False,  # theirs never shares the two matrices, whatever its config says
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    mlstm, hidden = decoder.sample(config, "mlstm"), decoder.hidden(config, "mlp")

    def factor(width: int) -> float:  # theirs are rounded down
        return (width + 0.5) / config.width

    return {
        "model_type": "xlstm",
        **decoder.shape(config),
        **FIXED,
        "num_heads": mlstm.n_heads,
        "v_dim_factor": factor(mlstm.n_heads * mlstm.head_width),
        "qk_dim_factor": factor(mlstm.n_heads * mlstm.k_width),
        "gate_soft_cap": float(mlstm.gate_softcap),
        "ffn_proj_factor": factor(hidden),
        "ffn_round_up_to_multiple_of": 1,
        "output_logit_soft_cap": float(recipe.logit_softcap),
        "norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    mlstm = decoder.sample(config, "mlstm")
    keys, values = mlstm.n_heads * mlstm.k_width, mlstm.n_heads * mlstm.head_width
    found = decoder.ends(config, "backbone.embeddings", "backbone.out_norm")
    for i in range(config.n_layers):
        ours, block = branch(i, 0), f"backbone.blocks.{i}"
        theirs, mlp = f"{block}.mlstm_layer", branch(i, 1)
        names = [f"{theirs}.{name}.weight" for name in ("q", "k", "v", "ogate_preact")]
        found.append(cat(f"{ours}.into.weight", names, (keys, keys, values, values)))
        for part in ("weight", "bias"):
            names = [f"{theirs}.{gate}gate_preact.{part}" for gate in "if"]
            found.append(cat(f"{ours}.gates.{part}", names))
        up = [f"{block}.ffn.{name}.weight" for name in ("proj_up_gate", "proj_up")]
        found += [
            same(f"{ours}.norm_I", f"{theirs}.multihead_norm.weight"),
            same(f"{ours}.out.weight", f"{theirs}.out_proj.weight"),
            same(norm(i, 0), f"{block}.norm_mlstm.weight"),
            same(norm(i, 1), f"{block}.norm_ffn.weight"),
            cat(f"{mlp}.into.weight", up),
            same(f"{mlp}.out.weight", f"{block}.ffn.proj_down.weight"),
        ]
    return found
