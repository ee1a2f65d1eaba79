"""ELECTRA: the model is an `ElectraForPreTraining`, its generator an `ElectraForMaskedLM`."""

from __future__ import annotations

from typing import Any

from models.convert import bert
from models.convert.rules import Rule, both, same
from models.recipe import ModelConfig

MODEL_TYPES = ("electra",)
HF_CLASS = {"electra": "ElectraForPreTraining"}
UNUSED = bert.UNUSED
FOLDED = tuple(name.replace("bert.", "electra.", 1) for name in bert.FOLDED)


def config(hf: Any) -> ModelConfig:
    """Ours of theirs; which of the two it is, its `architectures` say."""
    more: dict[str, Any] = {}
    if hf.embedding_size != hf.hidden_size:
        more["embedding_width"] = hf.embedding_size
    if "ElectraForMaskedLM" not in (hf.architectures or ()):
        transform = bert.ACTIVATIONS[hf.hidden_act]
        more["head"] = {"transform": transform, "bias": True, "binary": True}
        more |= {"objective": "replaced_token", "tied": False}
    return bert.like_bert(hf, hf.max_position_embeddings, "gelu", **more)


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    recipe: Any = config.recipe
    name = "ElectraForPreTraining" if recipe.head.binary else "ElectraForMaskedLM"
    return bert.keywords(config) | {
        "model_type": "electra",
        "architectures": [name],
        "embedding_size": recipe.embedding_width or config.width,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    recipe: Any = config.recipe
    found = bert.encoder(config, "electra")
    if recipe.embedding_width not in (None, config.width):
        found += both("project", "electra.embeddings_project")
    if recipe.head.binary:
        name = "discriminator_predictions"
        head = both("transform.dense", f"{name}.dense") + both("head", f"{name}.dense_prediction")
        return found + head
    found += both("transform.dense", "generator_predictions.dense")
    found += both("transform.norm", "generator_predictions.LayerNorm")
    return [*found, same("head.bias", "generator_lm_head.bias")]
