"""BERT, and what RoBERTa and ELECTRA share with it.

All tokens are of type 0 here: its vector becomes part of every position's, and comes back as zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.convert import decoder
from models.convert.decoder import branch
from models.convert.rules import Rule, both, same
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("bert",)
HF_CLASS = {"bert": "BertForMaskedLM"}
FOLDED = (
    "bert.embeddings.position_embeddings.weight",
    "bert.embeddings.token_type_embeddings.weight",
)
UNUSED = ("type_vocab_size",)
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    return like_bert(hf, hf.max_position_embeddings, ACTIVATIONS[hf.hidden_act])


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    return {"model_type": "bert", **keywords(config)}


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = encoder(config, "bert")
    found += both("transform.dense", "cls.predictions.transform.dense")
    found += both("transform.norm", "cls.predictions.transform.LayerNorm")
    return [*found, same("head.bias", "cls.predictions.bias")]


def like_bert(hf: Any, max_length: int, transform: str, **more: Any) -> ModelConfig:
    """A masked model (or what `more` says) of BERT's layers."""
    if not hf.tie_word_embeddings:
        raise RecipeError(("tie_word_embeddings",), False, "true", "not converted")
    attention = {"n_heads": hf.num_attention_heads, "causal": False, "bias": True, "out_bias": True}
    activation = ACTIVATIONS[hf.hidden_act]
    recipe = {
        "pattern": "attention+mlp",
        "branches": {
            "attention": attention,
            "mlp": {"activation": activation, "hidden": hf.intermediate_size, "bias": True},
        },
        "norm": {"type": "layernorm", "placement": "post", "eps": hf.layer_norm_eps},
        "positions": {"type": "learned", "max_length": max_length},
        "embedding_norm": True,
        "objective": "masked",
        "head": {"transform": transform, "norm": True, "bias": True},
        "tied": True,
    }
    return decoder.recipe_at(hf, **(recipe | more))


def keywords(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours, as far as it is BERT's."""
    recipe: Any = config.recipe
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        **decoder.shape(config),
        "tie_word_embeddings": True,
        "num_attention_heads": decoder.heads(config)[0],
        "intermediate_size": decoder.hidden(config, "mlp"),
        "hidden_act": names[recipe.branches["mlp"]["activation"]],
        "max_position_embeddings": recipe.positions["max_length"],
        "layer_norm_eps": recipe.norm.eps,
    }


def encoder(config: ModelConfig, theirs: str, before: int = 0, n_types: int = 2) -> list[Rule]:
    """Everything but the head; `before` rows of their position table are not used."""
    length = config.recipe.positions["max_length"]  # type: ignore[index]
    embeddings = f"{theirs}.embeddings"
    found = [same("embedding.weight", f"{embeddings}.word_embeddings.weight")]
    found.append(_positions(embeddings, int(length), before, n_types))
    found += both("embedding_norm", f"{embeddings}.LayerNorm")
    for i in range(config.n_layers):
        found += layer(i, f"{theirs}.encoder.layer.{i}")
    return found


def layer(i: int, theirs: str, qkv: Sequence[str] = ("query", "key", "value")) -> list[Rule]:
    """One layer in BERT's names."""
    found = decoder.joined(f"{branch(i, 0)}.qkv", [f"{theirs}.attention.self.{x}" for x in qkv])
    pairs = {
        f"{branch(i, 0)}.out": "attention.output.dense",
        f"layers.{i}.residuals.0.outside": "attention.output.LayerNorm",
        f"{branch(i, 1)}.into": "intermediate.dense",
        f"{branch(i, 1)}.out": "output.dense",
        f"layers.{i}.residuals.1.outside": "output.LayerNorm",
    }
    return found + [rule for a, b in pairs.items() for rule in both(a, f"{theirs}.{b}")]


def _positions(theirs: str, length: int, before: int, n_types: int) -> Rule:
    def join(parts: list[Tensor]) -> Tensor:
        return parts[0][-length:] + parts[1][0]

    def split(x: Tensor) -> list[Tensor]:
        return [torch.cat([x.new_zeros(before, x.shape[1]), x]), x.new_zeros(n_types, x.shape[1])]

    names = (f"{theirs}.position_embeddings.weight", f"{theirs}.token_type_embeddings.weight")
    return Rule("positions.weight", names, join, split)
