"""The client optimizer over a model's parameter groups; `models.init` sets rates and decay."""

from collections.abc import Iterator
from typing import Any

import torch

from launch.adafactor import Adafactor
from launch.config import OptimizerConfig
from launch.muon import Muon
from models.model import Model


def build_optimizer(model: Model, chosen: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, Muon for hidden matrices, or Adafactor."""
    groups = [
        g for g in model.param_groups(chosen.learning_rate, chosen.weight_decay) if g["params"]
    ]
    if chosen.name == "muon":
        hidden = {id(matrix.weight) for matrix in model.matrices()} - {id(model.head.weight)}
        split = _muon_groups(groups, hidden)
        return Muon(list(split), chosen.momentum, chosen.betas, chosen.eps)
    if chosen.name == "adafactor":
        return Adafactor(groups)
    return torch.optim.AdamW(
        groups, lr=chosen.learning_rate, betas=chosen.betas, eps=chosen.eps, fused=True
    )


def _muon_groups(groups: list[dict[str, Any]], hidden: set[int]) -> Iterator[dict[str, Any]]:
    for group in groups:
        for muon in (True, False):
            params = [param for param in group["params"] if (id(param) in hidden) == muon]
            if params:
                yield {**group, "params": params, "muon": muon}
