"""The client optimizer, and what each rank's share of every parameter is called."""

import torch
from torch import nn

from launch.config import RunConfig
from launch.zero_state import Share
from models.model import Model


def build_optimizer(model: Model, config: RunConfig) -> torch.optim.Optimizer:
    """Groups, their rates and their decay come from the model: see `models.init`."""
    chosen = config.train.optimizer
    groups = model.param_groups(chosen.learning_rate, chosen.weight_decay)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=chosen.learning_rate,
        betas=chosen.betas,
        eps=chosen.eps,
        fused=True,
    )


def shares(model: nn.Module, rank: int) -> dict[nn.Parameter, Share]:
    """Without expert parallelism every rank has the whole of every parameter."""
    return {
        param: Share(name, first_replica=rank == 0)
        for name, param in model.named_parameters()
        if param.requires_grad
    }
