"""BART, whose position tables begin with two rows that no position uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.convert import decoder
from models.convert.bert import ACTIVATIONS
from models.convert.rules import Rule, both, mapped, same
from models.errors import RecipeError
from models.recipe import ModelConfig
from models.spec import Encoder

MODEL_TYPES = ("bart",)
HF_CLASS = {"bart": "BartForConditionalGeneration"}
IGNORED = ("final_logits_bias",)
FOLDED = tuple(f"model.{stack}.embed_positions.weight" for stack in ("encoder", "decoder"))
BEFORE = 2


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    if not hf.tie_word_embeddings:
        raise RecipeError(("tie_word_embeddings",), False, "true", "not converted")
    recipe = {
        "encoder": {
            "pattern": "attention+mlp",
            "branches": _branches(hf, hf.encoder_attention_heads, hf.encoder_ffn_dim, False),
            "n_layers": hf.encoder_layers,
        },
        "pattern": "attention+cross+mlp",
        "branches": _branches(hf, hf.decoder_attention_heads, hf.decoder_ffn_dim, True),
        "norm": {"type": "layernorm", "placement": "post"},
        "positions": {"type": "learned", "max_length": hf.max_position_embeddings},
        "embedding_norm": True,
        "embedding_scale": hf.scale_embedding,
        "objective": "infilling",
        "tied": True,
    }
    return decoder.recipe_of(recipe, hf.d_model, hf.decoder_layers, hf.vocab_size)


def _branches(hf: Any, n_heads: int, hidden: int, causal: bool) -> dict[str, Any]:
    cross = {"n_heads": n_heads, "bias": True, "out_bias": True}
    activation = ACTIVATIONS[hf.activation_function]
    return {
        "attention": {**cross, "causal": causal},
        **({"cross": cross} if causal else {}),
        "mlp": {"activation": activation, "hidden": hidden, "bias": True},
    }


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    encoder = recipe.encoder
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "model_type": "bart",
        "vocab_size": config.vocab_size,
        "d_model": config.width,
        "encoder_layers": len(config.encoder_layers()),
        "decoder_layers": config.n_layers,
        "encoder_attention_heads": decoder.heads(config, spec=encoder)[0],
        "decoder_attention_heads": decoder.heads(config)[0],
        "encoder_ffn_dim": decoder.hidden(config, "mlp", spec=encoder),
        "decoder_ffn_dim": decoder.hidden(config, "mlp"),
        "activation_function": names[recipe.branches["mlp"]["activation"]],
        "max_position_embeddings": recipe.positions["max_length"],
        "scale_embedding": recipe.embedding_scale,
        "tie_word_embeddings": True,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "forced_eos_token_id": None,
        "decoder_start_token_id": 0,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    assert isinstance(config.recipe.encoder, Encoder)
    found = [same("embedding.weight", "model.shared.weight")]
    found += _stack("encoder.", "model.encoder", len(config.encoder_layers()), ["mlp"])
    return found + _stack("", "model.decoder", config.n_layers, ["cross", "mlp"])


def _stack(ours: str, theirs: str, n_layers: int, rest: list[str]) -> list[Rule]:
    found = both(f"{ours}embedding_norm", f"{theirs}.layernorm_embedding")
    found.append(
        mapped(f"{ours}positions.weight", f"{theirs}.embed_positions.weight", _used, _with_unused)
    )
    for i in range(n_layers):
        there = f"{theirs}.layers.{i}"
        for j, kind in enumerate(["attention", *rest]):
            place = f"{ours}layers.{i}.residuals.{j}"
            found += _branch(f"{place}.branch", there, kind)
            norms = {"attention": "self_attn", "cross": "encoder_attn", "mlp": "final"}
            found += both(f"{place}.outside", f"{there}.{norms[kind]}_layer_norm")
    return found


def _branch(ours: str, theirs: str, kind: str) -> list[Rule]:
    if kind == "mlp":
        return both(f"{ours}.into", f"{theirs}.fc1") + both(f"{ours}.out", f"{theirs}.fc2")
    at = f"{theirs}.self_attn" if kind == "attention" else f"{theirs}.encoder_attn"
    out = both(f"{ours}.out", f"{at}.out_proj")
    if kind == "attention":
        return decoder.joined(f"{ours}.qkv", [f"{at}.{x}_proj" for x in "qkv"]) + out
    kv = decoder.joined(f"{ours}.kv", [f"{at}.{x}_proj" for x in "kv"])
    return kv + both(f"{ours}.q", f"{at}.q_proj") + out


def _used(table: Tensor) -> Tensor:
    return table[BEFORE:]


def _with_unused(table: Tensor) -> Tensor:
    return torch.cat([table.new_zeros(BEFORE, table.shape[1]), table])
