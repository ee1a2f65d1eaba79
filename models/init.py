"""How weights start, and how learning rates follow the width.

| role                  | scaled (GPT-2)     | fan_in             | mup                        |
|-----------------------|--------------------|--------------------|----------------------------|
| embedding             | N(0, std)          | N(0, std)          | N(0, 1); tied: N(0, std)   |
| hidden (into branch)  | N(0, std)          | N(0, 1/√fan_in)    | N(0, 1/√fan_in), rate × r  |
| out (of a branch)     | hidden / √branches | hidden / √branches | hidden / √branches, × r    |
| head                  | N(0, std)          | N(0, std)          | 0, rate × r                |
| zero                  | 0                  | 0                  | 0, rate × r                |
| norms, biases, others | 1, 0, the branch's | 1, 0, the branch's | the same, rate × 1         |

`scaled` is GPT-2's (its code and report, section 2.3): the branches' outputs are divided by the
root of their number, so that the stream's variance does not grow with depth. `mup` is the maximal
update parametrisation for Adam (Tensor Programs V, 2203.03466, table 8): a matrix
takes the learning rate times r, its fan-in in the model of width `base_width` over its own (b/D for
most, 1 where the fan-in is the same at every width), so that the best rate found there holds at
every width. Scores of attention shrink as the heads' width rather than as its root
(`Frame.score_scale`). A tied head multiplies logits by b/D instead, and its embedding starts as
small as the head would; scales by the width itself (`embedding_scale`, `head.scaled`) have no place
beside it. `embedding_std` overrides the
table for embeddings. Weight decay is divided by the rate's multiplier, since AdamW multiplies the
two (2405.13698). What decays are matrices that multiply activations, and the kernels of short
convolutions, which Mamba's code leaves decayed where it marks A, D and Δ's bias
`_no_weight_decay`. Nothing else does, whatever its shape: embeddings, norms, biases, and what
belongs to a channel or a state by itself, such as A and the C of S4.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from models.branch import Branch
from models.linear import Linear
from models.mixers.short_conv import ShortConv
from models.norm import LayerNorm, RMSNorm
from models.recipe import ModelConfig
from models.spec import InitSpec

if TYPE_CHECKING:
    from models.model import Model


class Matrix(NamedTuple):
    """A weight that multiplies activations, or a stack of such."""

    name: str
    weight: Tensor
    fan_in: int


@torch.no_grad()
def init_weights(model: Model, seed: int) -> None:
    """Set every parameter. Each is drawn from a stream of its own, seeded by its name (and expert),
    so it depends neither on other parameters nor on how they are spread over ranks."""
    from models.assembly import n_branches

    spec, depth = _spec(model.config), n_branches(model.config) ** -0.5
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    for buffer in model.buffers():
        buffer.zero_()
    vectors = _vectors(model)
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            if id(module.weight) not in vectors:
                std = _std(module.role, module.in_features, spec, depth)
                _normal(module.weight, std, seed, name)
        elif isinstance(module, nn.Embedding):
            std = _embedding_std(spec, model.config.recipe.tied)
            _normal(module.weight, std, seed, name)
        elif isinstance(module, RMSNorm | LayerNorm):
            module.weight.fill_(1.0)
    for name, module in model.named_modules():
        if isinstance(module, Branch):
            _init_experts(module, name, seed, spec, depth)
            module.init_special(_generator(module, seed, name))


def _init_experts(branch: Branch, name: str, seed: int, spec: InitSpec, depth: float) -> None:
    for part, weight_E, role, fan_in in branch.experts():
        std = _std(role, fan_in, spec, depth)
        for expert, weight in zip(branch.expert_ids(), weight_E, strict=True):
            _normal(weight, std, seed, f"{name}.{part}.{expert}")


def param_groups(model: Model, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """See `Model.param_groups`; groups are ordered by (multiplier, decay) and named."""
    multipliers = dict(_multipliers(model))
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    decaying = _decaying(model)
    for parameter in model.parameters():
        multiplier = multipliers.get(id(parameter), 1.0)
        decayed = id(parameter) in decaying
        expert = getattr(parameter, "expert", False)
        groups.setdefault((multiplier, decayed, expert), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * multiplier,
            "weight_decay": weight_decay / multiplier if decayed else 0.0,
            "name": _group_name(multiplier, decayed, expert),
        }
        for (multiplier, decayed, expert), parameters in sorted(
            groups.items(), key=lambda item: item[0]
        )
    ]


def matrices(model: Model) -> Iterator[Matrix]:
    """See `Model.matrices`."""
    vectors = _vectors(model)
    for path, module in model.named_modules():
        if isinstance(module, Linear):
            if id(module.weight) not in vectors:
                yield Matrix(f"{path}.weight", module.weight, module.in_features)
        elif isinstance(module, Branch):
            for name, weight, fan_in in module.matrices():
                yield Matrix(f"{path}.{name}", weight, fan_in)


def logit_multiplier(config: ModelConfig) -> float:
    """base_width/fan-in where a tied head cannot take a learning rate of its own under muP."""
    spec, fan_in = _spec(config), config.recipe.embedding_width or config.width
    return spec.base_width / fan_in if spec.scheme == "mup" and config.recipe.tied else 1.0


def _group_name(multiplier: float, decayed: bool, expert: bool) -> str:
    return f"lr×{multiplier:.4g}{',decay' if decayed else ''}{',expert' if expert else ''}"


def _multipliers(model: Model) -> Iterator[tuple[int, float]]:
    """Learning-rate multipliers of matrices: fan-in at the base width over their own."""
    from models.assembly import build

    base = model.config.base
    if base is None:
        return
    model.config.check_rates()
    with torch.device("meta"):
        fan_ins = {matrix.name: matrix.fan_in for matrix in matrices(build(base))}
    for name, weight, fan_in in matrices(model):
        yield id(weight), fan_ins.get(name, fan_in) / fan_in


def _decaying(model: Model) -> set[int]:
    kernels = [part.weight_IQ for part in model.modules() if isinstance(part, ShortConv)]
    return {id(weight) for weight in (*(matrix.weight for matrix in matrices(model)), *kernels)}


def _vectors(model: Model) -> set[int]:
    """The weights of embeddings, which may be those of a head too."""
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}


def _std(role: str, fan_in: int, spec: InitSpec, depth: float) -> float:
    if role == "zero" or (role == "head" and spec.scheme == "mup"):
        return 0.0
    fixed = spec.scheme == "scaled" or role == "head"
    std = spec.std if fixed else 1 / math.sqrt(fan_in)
    return std * depth if role == "out" else std


def _embedding_std(spec: InitSpec, tied: bool) -> float:
    if spec.embedding_std is not None:
        return spec.embedding_std
    return 1.0 if spec.scheme == "mup" and not tied else spec.std


def _spec(config: ModelConfig) -> InitSpec:
    assert isinstance(config.recipe.init, InitSpec)
    return config.recipe.init


def _generator(module: nn.Module, seed: int, name: str) -> torch.Generator:
    parameter = next(module.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    return _seeded(device, seed, name)


def _normal(weight: Tensor, std: float, seed: int, name: str) -> None:
    weight.normal_(
        0.0, std, generator=_seeded(weight.device, seed, name)
    ) if std else weight.zero_()


def _seeded(device: torch.device, seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    place = "cpu" if device.type == "meta" else device
    return torch.Generator(place).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
