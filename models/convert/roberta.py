"""RoBERTa, which counts positions from its pad's id + 1, and gives the pad none.

Asked for by name only: BERT's layout holds the same model without a token that must not occur.
"""

from __future__ import annotations

from typing import Any

from models.convert import bert
from models.convert.rules import Rule, both, same
from models.recipe import ModelConfig

MODEL_TYPES = ("roberta",)
HF_CLASS = {"roberta": "RobertaForMaskedLM"}
UNUSED = bert.UNUSED
FOLDED = tuple(name.replace("bert.", "roberta.", 1) for name in bert.FOLDED)
PAD = 1


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    return bert.like_bert(hf, hf.max_position_embeddings - hf.pad_token_id - 1, "gelu")


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    given = bert.keywords(config)
    return given | {
        "model_type": "roberta",
        "pad_token_id": PAD,
        "type_vocab_size": 1,
        "max_position_embeddings": given["max_position_embeddings"] + PAD + 1,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    found = bert.encoder(config, "roberta", before=PAD + 1, n_types=1)
    found += both("transform.dense", "lm_head.dense")
    found += both("transform.norm", "lm_head.layer_norm")
    return [*found, same("head.bias", "lm_head.bias")]
