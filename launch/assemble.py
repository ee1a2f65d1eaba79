"""A run's model, initialised, as its ranks hold it and as it computes."""

import warnings
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from launch.config import RunConfig
from launch.engine import prepare
from launch.parallel import cut_rows, spread_experts
from launch.ranks import Ranks
from models import ModelConfig, build
from models.channels.moe import Moe
from models.model import Model
from models.residual import Layer


def assemble(config: RunConfig, shape: ModelConfig, ranks: Ranks) -> Model:
    """On this rank's device, with this rank's share of the experts."""
    settings = config.train
    expert_group = prepare(config.parallel.expert_parallel)
    with ranks.device:
        model = build(shape)
    spread_experts(model, expert_group, ranks)
    cut_rows(model, config)
    model.init_weights(settings.seed)
    if settings.compile:
        compile_layers(model)
    if settings.activation_checkpointing:
        recompute_layers(model)
    return model


def compile_layers(model: Model) -> None:
    """Fuse what each branch and its norms do. Experts stay as they are: their rows differ in number
    from step to step, and may travel.

    Raises a `torch._dynamo` or `torch._inductor` error at the first step without a C++ compiler.
    """
    torch.compiler.reset()  # of the run before in this process, whose widths were others
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    for layer in model.modules():
        if isinstance(layer, Layer):
            method = "update" if layer.parallel else "forward"
            for residual in layer.residuals:
                if not isinstance(residual.branch, Moe):
                    setattr(residual, method, torch.compile(getattr(residual, method)))


def recompute_layers(model: Model) -> None:
    """Keep each layer's input alone for the backward pass, and compute the layer again there."""
    layers: list[nn.Module] = [part for part in model.modules() if isinstance(part, Layer)]
    for layer in layers:
        forward = partial(checkpoint, layer.forward, use_reentrant=False)
        layer.forward = forward
