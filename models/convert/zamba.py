"""Zamba: Mamba layers in heads, some of which read a block that they share."""

from __future__ import annotations

from typing import Any

import torch

from models import schema
from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, mapped, same, stacked
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("zamba",)
UNUSED = ("attn_layer_period", "attn_layer_offset")


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    if hf.attention_hidden_size != 2 * hf.hidden_size or hf.hidden_act != "gelu":
        raise RecipeError(
            ("attention_hidden_size",),
            hf.attention_hidden_size,
            f"{2 * hf.hidden_size}",
            "not ours",
        )
    if not hf.tie_word_embeddings:  # theirs ties the block with the embeddings or not at all
        raise RecipeError(
            ("tie_word_embeddings",), False, [True], "layers with blocks of their own"
        )
    layers = ["hybrid" if kind == "hybrid" else "mamba_heads" for kind in hf.layers_block_type]
    mamba = {
        "n_heads": hf.n_mamba_heads,
        "n_states": hf.mamba_d_state,
        "n_taps": hf.mamba_d_conv,
        "expansion": float(hf.mamba_expand),
        "dt_rank": int(hf.mamba_dt_rank),
        "bias": hf.mamba_proj_bias,
        "conv_bias": hf.mamba_conv_bias,
    }
    hybrid = {
        "type": "zamba",
        "mamba": mamba,
        "n_heads": hf.num_attention_heads,
        "head_width": hf.attention_head_dim,
        "n_kv_heads": hf.num_key_value_heads,
        "hidden": hf.intermediate_size,
    }
    branches = {"mamba_heads": mamba, "hybrid": hybrid}
    return decoder.recipe_at(
        hf,
        pattern=decoder.shortest(layers),
        branches={name: branches[name] for name in dict.fromkeys(layers)},
        norm={"type": "rmsnorm", "placement": "pre", "eps": hf.rms_norm_eps},
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    hybrid = decoder.sample(config, "hybrid")
    mamba, options = hybrid.mamba, dict(recipe.branches["mamba_heads"])
    inside = schema.check(recipe.branches["hybrid"]["mamba"] or {}, type(mamba))
    if inside != {key: value for key, value in options.items() if key != "type"}:
        raise RecipeError(("branches", "hybrid", "mamba"), inside, "mamba_heads' own", "differs")
    return {
        "model_type": "zamba",
        **decoder.shape(config),
        "layers_block_type": [
            "hybrid" if use.name == "hybrid" else "linear_attention" for (use,) in config.layers()
        ],
        "num_attention_heads": hybrid.n_heads,
        "num_key_value_heads": hybrid.n_kv_heads,
        "attention_head_dim": hybrid.head_width,
        "intermediate_size": hybrid.hidden,
        "n_mamba_heads": mamba.n_heads,
        "mamba_d_state": mamba.n_states,
        "mamba_d_conv": mamba.conv.n_taps,
        "mamba_expand": int(options["expansion"]),
        "mamba_dt_rank": mamba.dt_rank,
        "mamba_proj_bias": options["bias"],
        "mamba_conv_bias": options["conv_bias"],
        "rms_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = decoder.ends(config, final_norm="model.final_layernorm")
    hybrids = [i for i, (use,) in enumerate(config.layers()) if use.name == "hybrid"]
    found += _block(config, hybrids)
    for i in range(config.n_layers):
        ours, theirs = branch(i, 0), f"model.layers.{i}"
        if i in hybrids:
            found.append(same(f"{ours}.into.weight", f"{theirs}.linear.weight"))
            found.append(
                same(f"{ours}.norm.weight", f"{theirs}.mamba_decoder.input_layernorm.weight")
            )
            found += _mamba(config, f"{ours}.mamba", f"{theirs}.mamba_decoder.mamba")
        else:
            found.append(same(norm(i, 0), f"{theirs}.input_layernorm.weight"))
            found += _mamba(config, ours, f"{theirs}.mamba")
    return found


def _block(config: ModelConfig, layers: list[int]) -> list[Rule]:
    """The shared weights, which their state dict repeats in every hybrid layer."""
    ours = f"{branch(layers[0], 0)}.owned.0"
    parts = {
        "before.weight": ["input_layernorm"],
        "attention.qkv.weight": [f"self_attn.{x}_proj" for x in "qkv"],
        "attention.out.weight": ["self_attn.o_proj"],
        "between.weight": ["pre_ff_layernorm"],
        "mlp.into.weight": ["feed_forward.gate_proj", "feed_forward.up_proj"],
        "mlp.out.weight": ["feed_forward.down_proj"],
    }
    hybrid = decoder.sample(config, "hybrid")
    counts = (hybrid.n_heads, hybrid.n_kv_heads, hybrid.n_kv_heads)
    heads = [n * hybrid.head_width for n in counts]
    found = []
    for name, theirs in parts.items():
        names = [f"model.layers.{i}.shared_transf.{x}.weight" for i in layers for x in theirs]
        sizes = heads if len(theirs) == 3 else None
        found.append(_repeated(f"{ours}.{name}", names, len(theirs), sizes))
    return found


def _repeated(ours: str, names: list[str], n: int, sizes: list[int] | None) -> Rule:
    times = len(names) // n

    def split(x: torch.Tensor) -> list[torch.Tensor]:
        parts = torch.split(x, sizes) if sizes else torch.chunk(x, n)
        return list(parts) * times

    return Rule(ours, tuple(names), lambda xs: torch.cat(xs[:n]), split)


def _mamba(config: ModelConfig, ours: str, theirs: str) -> list[Rule]:
    """Their x and z lie row by row in one projection; their heads are a first axis."""
    mamba = decoder.sample(config, "hybrid").mamba
    options: Any = config.recipe.branches["mamba_heads"]
    n = mamba.n_heads

    def rows(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[0::2], x[1::2]])

    def between(x: torch.Tensor) -> torch.Tensor:
        return torch.stack(torch.chunk(x, 2), 1).flatten(0, 1)

    def heads(name: str, theirs_name: str) -> Rule:
        return mapped(
            f"{ours}.{name}",
            f"{theirs}.{theirs_name}",
            lambda x: x.flatten(0, 1),
            lambda x: x.view(n, -1, *x.shape[1:]),
        )

    found = [
        heads("dt_bias", "dt_proj_bias"),
        heads("log_A_IS", "A_log"),
        heads("skip_I", "D"),
        same(f"{ours}.out.weight", f"{theirs}.out_proj.weight"),
        mapped(
            f"{ours}.conv.weight_IQ",
            f"{theirs}.conv1d.weight",
            lambda x: x[:, 0],
            lambda x: x[:, None],
        ),
        *stacked([f"{ours}.selects.{h}.weight" for h in range(n)], f"{theirs}.x_proj_weight"),
        *stacked([f"{ours}.dts.{h}.weight" for h in range(n)], f"{theirs}.dt_proj_weight"),
    ]
    for part in ["weight", "bias"] if options["bias"] else ["weight"]:
        found.append(mapped(f"{ours}.into.{part}", f"{theirs}.in_proj.{part}", rows, between))
    if options["bias"]:
        found.append(same(f"{ours}.out.bias", f"{theirs}.out_proj.bias"))
    if options["conv_bias"]:
        found.append(same(f"{ours}.conv.bias", f"{theirs}.conv1d.bias"))
    return found
