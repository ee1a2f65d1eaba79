"""Mamba, Falcon Mamba, Mamba-2 and the Mamba layers of Jamba."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from models.convert import decoder
from models.convert.decoder import branch, norm
from models.convert.rules import Rule, mapped, same
from models.recipe import ModelConfig

MODEL_TYPES = ("mamba", "mamba2", "falcon_mamba")


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    kind = "mamba2" if hf.model_type == "mamba2" else "mamba"
    options = {
        "n_states": hf.state_size,
        "expansion": float(hf.expand),
        "n_taps": hf.conv_kernel,
        "bias": hf.use_bias,
        "conv_bias": hf.use_conv_bias,
    }
    if kind == "mamba":
        options["dt_rank"] = int(hf.time_step_rank)
    else:
        options |= {"head_width": hf.head_dim, "n_groups": hf.n_groups}
    if hf.model_type == "falcon_mamba":
        options |= {"inner_norm": "plain", "inner_eps": hf.mixer_rms_eps}
    return decoder.recipe_at(
        hf,
        pattern=kind,
        branches={kind: options},
        norm={"type": "rmsnorm", "placement": "pre", "eps": hf.layer_norm_epsilon},
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    kind = recipe.pattern
    options, built = recipe.branches[kind], decoder.sample(config, kind)
    special: dict[str, Any] = (
        {"time_step_rank": built.dt_rank}
        if kind == "mamba"
        else {
            "head_dim": built.head_width,
            "num_heads": built.n_heads,
            "n_groups": built.n_groups,
            "chunk_size": built.chunk,
        }
    )
    if kind == "mamba" and built.inner_norm == "plain":
        kind, special = "falcon_mamba", {**special, "mixer_rms_eps": built.inner_eps}
    return {
        "model_type": kind,
        **decoder.shape(config),
        **special,
        "state_size": options["n_states"],
        "expand": int(options["expansion"]),
        "conv_kernel": options["n_taps"],
        "use_bias": options["bias"],
        "use_conv_bias": options["conv_bias"],
        "layer_norm_epsilon": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    kind = config.recipe.pattern
    found = decoder.ends(config, "backbone.embeddings", "backbone.norm_f")
    for i in range(config.n_layers):
        theirs, ours = f"backbone.layers.{i}", branch(i, 0)
        found.append(same(norm(i, 0), f"{theirs}.norm.weight"))
        found += block(config.recipe.branches[kind], ours, f"{theirs}.mixer")
        if kind == "mamba2":
            found.append(same(f"{ours}.norm.weight", f"{theirs}.mixer.norm.weight"))
    return found


def block(options: dict[str, Any], ours: str, theirs: str) -> list[Rule]:
    """One mixer; Mamba's Δ has a bias of its own here."""
    if options["type"] == "mamba":
        special = {
            "select.weight": "x_proj.weight",
            "dt.weight": "dt_proj.weight",
            "dt_bias": "dt_proj.bias",
            "log_A_IS": "A_log",
            "skip_I": "D",
        }
    else:
        special = {"dt_bias": "dt_bias", "log_A_H": "A_log", "skip_H": "D"}
    special |= {"into.weight": "in_proj.weight", "out.weight": "out_proj.weight"}
    if options["bias"]:
        special |= {"into.bias": "in_proj.bias", "out.bias": "out_proj.bias"}
    if options["conv_bias"]:
        special["conv.bias"] = "conv1d.bias"
    found = [same(f"{ours}.{a}", f"{theirs}.{b}") for a, b in special.items()]
    return [*found, mapped(f"{ours}.conv.weight_IQ", f"{theirs}.conv1d.weight", _flat, _deep)]


def _flat(weight: Tensor) -> Tensor:
    return weight[:, 0]


def _deep(weight: Tensor) -> Tensor:
    return weight[:, None]
