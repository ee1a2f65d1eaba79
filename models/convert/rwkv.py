"""RWKV-4."""

from __future__ import annotations

from typing import Any

import torch

from models.convert import decoder
from models.convert.decoder import branch
from models.convert.rules import Rule, both, same
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("rwkv",)


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    if hf.attention_hidden_size != hf.hidden_size:
        raise RecipeError(
            ("attention_hidden_size",), hf.attention_hidden_size, f"{hf.hidden_size}", "not ours"
        )
    return decoder.recipe_at(
        hf,
        pattern="rwkv4+rwkv_channel",
        branches={"rwkv4": {}, "rwkv_channel": {"hidden": hf.intermediate_size}},
        norm={"type": "layernorm", "placement": "pre", "eps": hf.layer_norm_epsilon},
        embedding_norm=True,
        tied=hf.tie_word_embeddings,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    return {
        "model_type": "rwkv",
        **decoder.shape(config),
        "attention_hidden_size": config.width,
        "intermediate_size": decoder.sample(config, "rwkv_channel").hidden,
        "layer_norm_epsilon": recipe.norm.eps,
        "rescale_every": 0,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = [same("embedding.weight", "rwkv.embeddings.weight")]
    if not config.recipe.tied:
        found.append(same("head.weight", "head.weight"))
    found += both("final_norm", "rwkv.ln_out") + both("embedding_norm", "rwkv.blocks.0.pre_ln")
    for i in range(config.n_layers):
        block = f"rwkv.blocks.{i}"
        mixer, channel = branch(i, 0), branch(i, 1)
        for j in range(2):
            found += both(f"layers.{i}.residuals.{j}.before", f"{block}.ln{j + 1}")
        found += _weights(mixer, f"{block}.attention", ("key", "value", "receptance"))
        found += _weights(channel, f"{block}.feed_forward", ("key", "receptance"))
        found += [
            same(f"{mixer}.out.weight", f"{block}.attention.output.weight"),
            same(f"{channel}.out.weight", f"{block}.feed_forward.value.weight"),
            same(f"{mixer}.log_decay_I", f"{block}.attention.time_decay"),
            same(f"{mixer}.bonus_I", f"{block}.attention.time_first"),
        ]
    return found


def _weights(ours: str, theirs: str, names: tuple[str, ...]) -> list[Rule]:
    """Matrices, and their shifts stacked here; a channel's receptance is its gate."""
    gate = {"receptance": "gate"} if len(names) == 2 else {}
    shifts = Rule(
        f"{ours}.shift.share_ND",
        tuple(f"{theirs}.time_mix_{name}" for name in names),
        lambda xs: torch.cat(xs).flatten(1),
        lambda x: [row.view(1, 1, -1) for row in x],
    )
    return [
        shifts,
        *(
            same(f"{ours}.{gate.get(name, name)}.weight", f"{theirs}.{name}.weight")
            for name in names
        ),
    ]
