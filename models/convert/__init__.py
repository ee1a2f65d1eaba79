"""Weights from and to Hugging Face `transformers`: one file per family.

A family's file gives `MODEL_TYPES`; `config(hf_config)`, our config of theirs; `hf_config(config)`,
the keywords of theirs, `model_type` included; `rules(config)`, which parameter is made of which. It
may give `HF_CLASS`, the class with a head by `model_type`; `IGNORED`, weights of theirs without a
part in the logits; `FOLDED`, those that only together make one of ours; `UNUSED`, options of theirs
without a part in what it converts. `transformers` is imported when a model is converted.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from models.assembly import build
from models.convert import scale
from models.errors import RecipeError
from models.model import Model
from models.pattern import Layer
from models.recipe import ModelConfig
from models.stack import Stack

__all__ = ["families", "from_hf", "hf_class", "to_hf"]

UNUSED = re.compile(
    "architectures|.*_token_id|.*drop(out)?|.*dropout_.*|init.*|.*_init.*|rescale_.*"
    "|(max|n)_position.*|context_length|.*aux.*|.*jitter.*|.*z_loss.*|time_step_(min|max|floor|scale)"
    "|output_.*|return_.*|.*cache.*|.*_kernels?|use_mambapy|use_associative_scan|chunk_size.*|mode"
    "|(.*_)?dtype|residual_in_fp32|pretraining_tp|num_nextn_predict_layers|num_logits_to_keep"
    "|max_inference_chunksize|transformers_version|_.*|.*label.*|problem_type|summary_.*|classifier_.*"
)
"""Options of theirs that change no logits of one forward pass without dropout."""


@cache
def families() -> dict[str, ModuleType]:
    """The family's file by `model_type`."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    found = [module for module in modules if hasattr(module, "MODEL_TYPES")]
    return {kind: module for module in found for kind in module.MODEL_TYPES}


@torch.no_grad()
def from_hf(hf_model: Any) -> Model:
    """Our model with the weights of a `transformers` model, in its dtype, on its device.

    RecipeError if its `model_type` or an option of its config is not converted, ValueError if it
    has weights we do not.
    """
    kind = hf_model.config.model_type
    if kind not in families():
        raise RecipeError(("model_type",), kind, sorted(families()), "no converter")
    family = families()[kind]
    hf_model.config.architectures = [type(hf_model).__name__]
    config = family.config(hf_model.config)
    _refuse_unread(family, hf_model.config, config)
    model = build(config)
    theirs, ours = hf_model.state_dict(), _tensors(model)
    used: set[str] = set()
    for rule in family.rules(config):
        value = rule.join([theirs[name] for name in rule.theirs])
        _replace(model, rule.ours, value.contiguous().clone(), ours.pop(rule.ours).shape)
        used.update(rule.theirs)
    assert not ours, f"no rule for {sorted(ours)}"
    left = set(theirs) - used - set(getattr(family, "IGNORED", ())) - set(_tied(hf_model))
    if left:
        raise ValueError(f"weights of {kind} that our model has no place for: {sorted(left)}")
    return model


@torch.no_grad()
def to_hf(model: Model, kind: str | None = None) -> Any:
    """A `transformers` model with our weights, of the `model_type` given or the first that fits;
    RecipeError if no family can express the recipe. muP's scale of scores and of a tied head's
    logits become part of the weights."""
    import transformers

    family, kwargs = family_of(model.config, kind)
    hf_config = transformers.AutoConfig.for_model(**kwargs)
    hf_model = getattr(transformers, hf_class(hf_config))(hf_config)
    state: dict[str, Tensor] = {}
    ours, last = _tensors(model) | scale.folded(model), _last_norm(model)
    for rule in family.rules(model.config):
        value = ours[rule.ours]
        if rule.ours.startswith(f"{last}.") and model.multiplier != 1.0:
            value = value * model.multiplier  # a tied head cannot take muP's multiplier itself
        parts = rule.split(value)
        for name, part in zip(rule.theirs, parts, strict=True):
            before = [state[name]] if rule.piece and name in state else []
            state[name] = torch.cat([*before, part]).contiguous() if before else part.contiguous()
    missing, unexpected = hf_model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    left = set(missing) - set(_tied(hf_model)) - set(getattr(family, "IGNORED", ()))
    assert not left, f"no rule for {sorted(left)}"
    hf_model.tie_weights()
    return hf_model.to(next(model.parameters()).dtype)


def _refuse_unread(family: ModuleType, given: Any, config: ModelConfig) -> None:
    """RecipeError for an option of theirs that our config does not say again."""
    import transformers

    said = family.hf_config(config)
    options = given.to_dict()
    for name, value in transformers.AutoConfig.for_model(**said).to_dict().items():
        is_read = name in said or UNUSED.fullmatch(name) or name in getattr(family, "UNUSED", ())
        if not is_read and options.get(name, value) != value:
            raise RecipeError((name,), options[name], str(value), "not converted")


def _tensors(model: Model) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _last_norm(model: Model) -> str:
    """The path of the norm whose output the head reads."""
    if model.transform is not None:
        return "transform.norm"
    if model.final_norm is not None:
        return "final_norm"
    return f"layers.{len(model.layers) - 1}.residuals.{len(model.config.layers()[-1]) - 1}.outside"


def family_of(config: ModelConfig, kind: str | None = None) -> tuple[ModuleType, dict[str, Any]]:
    """The family whose config, made from ours, describes the same model again."""
    import transformers

    tried = families().values() if kind is None else [families()[kind]]
    for family in dict.fromkeys(tried):
        try:
            kwargs = family.hf_config(config) | ({} if kind is None else {"model_type": kind})
            again = family.config(transformers.AutoConfig.for_model(**kwargs))
        except (KeyError, TypeError, ValueError):
            continue
        if canonical(again) == canonical(config):
            return family, kwargs
    raise RecipeError(
        ("pattern",), config.recipe.pattern, sorted(families()), "no transformers family like it"
    )


def canonical(config: ModelConfig) -> dict[str, Any]:
    """What a config computes: options as the built branches hold them, without how they came
    about, how weights start or what they are trained on."""
    with torch.device("meta"):
        model = build(scale.plain(config))
    text = config.to_dict()
    recipe = text["recipe"]
    for part in ("init", "depth", "objective", "generator"):
        del recipe[part]
    if recipe["embedding_width"] == config.width:
        recipe["embedding_width"] = None
    _resolve(recipe["branches"], config.layers(), model)
    if model.encoder is not None:
        recipe["encoder"]["n_layers"] = len(model.encoder.layers)
        _resolve(recipe["encoder"]["branches"], config.encoder_layers(), model.encoder)
    return text


def _resolve(branches: dict[str, Any], layers: Sequence[Layer], stack: Stack) -> None:
    """Options as the built branches hold them."""
    for uses, layer in zip(layers, stack.layers, strict=True):
        for use, residual in zip(uses, layer.uses, strict=True):  # type: ignore[arg-type]
            options, branch = branches[use.name], residual.branch
            for name in list(options):
                if name in branch.derived:
                    del options[name]
                elif isinstance(getattr(branch, name, None), int | float | str):
                    options[name] = getattr(branch, name)


def hf_class(hf_config: Any) -> str:
    """The name of the class with a language-model head: what the config says, or the family's."""
    if hf_config.architectures:
        return str(hf_config.architectures[0])
    family = families()[hf_config.model_type]
    default = f"{type(hf_config).__name__.removesuffix('Config')}ForCausalLM"
    return str(getattr(family, "HF_CLASS", {}).get(hf_config.model_type, default))


def _replace(model: nn.Module, name: str, value: Tensor, shape: torch.Size) -> None:
    assert value.shape == shape, f"{name}: {tuple(value.shape)} for {tuple(shape)}"
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, leaf)
    if not isinstance(old, nn.Parameter):
        setattr(module, leaf, value)
        return
    new = nn.Parameter(value)
    if hasattr(old, "expert"):
        new.expert = old.expert  # type: ignore[attr-defined]
    setattr(module, leaf, new)
    if isinstance(model, Model) and model.config.recipe.tied and name == "embedding.weight":
        model.head.weight = new


def _tied(hf_model: Any) -> list[str]:
    """Names that only repeat another weight."""
    tied = hf_model.config.get_text_config().tie_word_embeddings
    keys = getattr(hf_model, "all_tied_weights_keys", None) or hf_model._tied_weights_keys or {}
    return list(keys) if tied else []
