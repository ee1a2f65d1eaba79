"""Switch Transformers: T5 with one of many experts per token in place of some perceptrons.

Theirs leaves out the tokens of a sequence that are over an expert's `expert_capacity`, ours none:
the two agree where none are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.convert import decoder, t5
from models.convert.bert import ACTIVATIONS
from models.convert.rules import Rule, same
from models.errors import RecipeError
from models.pattern import Layer
from models.recipe import ModelConfig

MODEL_TYPES = ("switch_transformers",)
HF_CLASS = {"switch_transformers": "SwitchTransformersForConditionalGeneration"}
UNUSED = ("router_ignore_padding_tokens", "add_router_probs")
FIXED = {"router_bias": False, "tie_word_embeddings": True}
ROOM = 2**20
"""An expert's capacity that no sequence fills."""


def config(hf: Any) -> ModelConfig:
    """Ours of theirs."""
    for name, value in FIXED.items():
        if getattr(hf, name) != value:
            raise RecipeError((name,), getattr(hf, name), str(value), "not converted")
    if hf.dense_act_fn not in ACTIVATIONS:
        raise RecipeError(("dense_act_fn",), hf.dense_act_fn, ACTIVATIONS, "not converted")
    heads = t5.attention(hf)
    mlp = {"activation": ACTIVATIONS[hf.dense_act_fn], "hidden": hf.d_ff}
    moe = {**mlp, "n_experts": hf.num_experts, "top_k": 1, "normalize": False}
    branches = {"attention": heads, "cross": heads, "mlp": mlp, "moe": moe}
    read, write = (
        [f"{before}+{'moe' if is_sparse else 'mlp'}" for is_sparse in _sparse(n_layers, n_sparse)]
        for before, n_layers, n_sparse in (
            ("attention", hf.num_layers, hf.num_sparse_encoder_layers),
            ("attention+cross", hf.num_decoder_layers, hf.num_sparse_decoder_layers),
        )
    )
    seeing = branches | {"attention": {**heads, "causal": False}}
    return t5.of_stacks(
        hf,
        encoder={"pattern": decoder.shortest(read), "branches": decoder.used(read, seeing)},
        pattern=decoder.shortest(write),
        branches=decoder.used(write, branches),
        head={"scaled": True},
        tied=True,
    )


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Theirs of ours."""
    moe = _experts(config)
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return t5.keywords(config) | {
        "model_type": "switch_transformers",
        "dense_act_fn": names[moe["activation"]],
        "num_experts": moe["n_experts"],
        "expert_capacity": ROOM,
        "num_sparse_encoder_layers": _n_sparse(config.encoder_layers()),
        "num_sparse_decoder_layers": _n_sparse(config.layers()),
        **FIXED,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Weight by weight."""
    return t5.stacks(config, _feed)


def _sparse(n_layers: int, n_sparse: int) -> list[bool]:
    """Which layers have experts, as their code places `n_sparse` of them."""
    step = n_layers // n_sparse if n_sparse else n_layers
    return [step == 1 or (step > 1 and i % step == 1) for i in range(n_layers)]


def _n_sparse(layers: tuple[Layer, ...]) -> int:
    """The number by which their code places experts so; RecipeError if none does."""
    given = [uses[-1].name == "moe" for uses in layers]
    for n_sparse in range(1, len(layers) + 2):
        if _sparse(len(layers), n_sparse) == given:
            return n_sparse
    raise RecipeError(
        ("pattern",), given, "experts in every n-th layer from the second", "not theirs"
    )


def _experts(config: ModelConfig) -> Any:
    """The options of the experts, whichever stack has some."""
    recipe: Any = config.recipe
    return {**getattr(recipe.encoder, "branches", {}), **recipe.branches}["moe"]


def _feed(config: ModelConfig, ours: str, theirs: str, name: str) -> list[Rule]:
    if name == "mlp":
        pairs = {"into": "wi", "out": "wo"}
        return [same(f"{ours}.{a}.weight", f"{theirs}.mlp.{b}.weight") for a, b in pairs.items()]
    experts = range(_experts(config)["n_experts"])

    def one(part: str, there: str) -> Rule:
        names = tuple(f"{theirs}.mlp.experts.expert_{e}.{there}.weight" for e in experts)
        return Rule(f"{ours}.{part}", names, _joined, _parted)

    router = same(f"{ours}.router.gate.weight", f"{theirs}.mlp.router.classifier.weight")
    return [router, one("into_EDI", "wi"), one("out_EID", "wo")]


def _joined(matrices: list[Tensor]) -> Tensor:
    return torch.stack(matrices).mT


def _parted(weight_E: Tensor) -> list[Tensor]:
    return list(weight_E.mT)
