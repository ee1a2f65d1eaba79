"""DeBERTa, version 2 (and 3), without its convolution and its absolute positions."""

from __future__ import annotations

from typing import Any

from models.convert import decoder
from models.convert.bert import ACTIVATIONS, layer
from models.convert.decoder import branch
from models.convert.rules import Rule, both, same
from models.errors import RecipeError
from models.recipe import ModelConfig

MODEL_TYPES = ("deberta-v2",)
HF_CLASS = {"deberta-v2": "DebertaV2ForMaskedLM"}
FIXED = {
    "relative_attention": True,
    "position_biased_input": False,
    "type_vocab_size": 0,
    "conv_kernel_size": 0,
    "tie_word_embeddings": True,
    "legacy": True,
}


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    for key, value in FIXED.items():
        given = getattr(hf, key, value)
        if given != value:
            raise RecipeError((key,), given, str(value), "not converted")
    furthest = getattr(hf, "max_relative_positions", -1)
    buckets = getattr(hf, "position_buckets", -1)
    activation, terms = ACTIVATIONS[hf.hidden_act], hf.pos_att_type or []
    return decoder.recipe_at(
        hf,
        pattern="disentangled+mlp",
        branches={
            "disentangled": {
                "n_heads": hf.num_attention_heads,
                "share": getattr(hf, "share_att_key", False),
                "content_to_position": "c2p" in terms,
                "position_to_content": "p2c" in terms,
            },
            "mlp": {"activation": activation, "hidden": hf.intermediate_size, "bias": True},
        },
        norm={"type": "layernorm", "placement": "post", "eps": hf.layer_norm_eps},
        positions={
            "type": "disentangled",
            "max_distance": furthest if furthest > 0 else hf.max_position_embeddings,
            "buckets": buckets if buckets > 0 else None,
            "norm": "layer_norm" in getattr(hf, "norm_rel_ebd", "none"),
        },
        embedding_norm=True,
        objective="masked",
        head={"transform": activation, "norm": True, "bias": True},
        tied=True,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    options, positions = recipe.branches["disentangled"], recipe.positions
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    terms = {"c2p": options["content_to_position"], "p2c": options["position_to_content"]}
    return {
        "model_type": "deberta-v2",
        **decoder.shape(config),
        **FIXED,
        "num_attention_heads": decoder.heads(config, "disentangled")[0],
        "intermediate_size": decoder.hidden(config, "mlp"),
        "hidden_act": names[recipe.branches["mlp"]["activation"]],
        "max_relative_positions": positions["max_distance"],
        "max_position_embeddings": positions["max_distance"],
        "position_buckets": positions["buckets"] or -1,
        "norm_rel_ebd": "layer_norm" if positions["norm"] else "none",
        "share_att_key": options["share"],
        "pos_att_type": [name for name, wanted in terms.items() if wanted],
        "layer_norm_eps": recipe.norm.eps,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    recipe: Any = config.recipe
    options = recipe.branches["disentangled"]
    found = [same("embedding.weight", "deberta.embeddings.word_embeddings.weight")]
    found += both("embedding_norm", "deberta.embeddings.LayerNorm")
    found.append(same("relative.weight", "deberta.encoder.rel_embeddings.weight"))
    if recipe.positions["norm"]:
        found += both("relative.norm", "deberta.encoder.LayerNorm")
    for i in range(config.n_layers):
        theirs = f"deberta.encoder.layer.{i}"
        found += layer(i, theirs, [f"{part}_proj" for part in ("query", "key", "value")])
        if not options["share"]:
            terms = {"query": "position_to_content", "key": "content_to_position"}
            names = [part for part, term in terms.items() if options[term]]
            there = [f"{theirs}.attention.self.pos_{part}_proj" for part in names]
            found += decoder.joined(f"{branch(i, 0)}.distance", there)
    found += both("transform.dense", "cls.predictions.transform.dense")
    found += both("transform.norm", "cls.predictions.transform.LayerNorm")
    return [*found, same("head.bias", "cls.predictions.bias")]
