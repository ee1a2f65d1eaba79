"""What training and decoding hold in memory, derived from the model run on the meta device.

Activations are the tensors that autograd saves for the backward pass, each storage once; states are
what a cache holds after a number of tokens. Neither is written per model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from models.assembly import build
from models.costs import Key
from models.model import Model
from models.periods import by_periods
from models.recipe import ModelConfig
from models.residual import Layer
from models.sight import looking_ahead
from models.training import blank, losses

ADAM_STATES = 2
MASTER_BYTES = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of them; transient buffers of single operations are not counted."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class State:
    """Elements that a cache holds for one sequence: `fixed`, `per_token` of context, and
    `per_source_token` of what an encoder read."""

    fixed: int
    per_token: float
    per_source_token: float = 0.0


def training_memory(
    config: ModelConfig,
    *,
    batch_size: int,
    sequence_length: int,
    dtype: torch.dtype = torch.float32,
    zero: int = 1,
    world: int = 1,
    expert_parallel: int = 1,
    checkpointing: bool = False,
    offload: bool = False,
) -> Memory:
    """Memory of one rank whose micro-batch is `batch_size` sequences, under AdamW.

    ZeRO (1910.02054) spreads optimizer states from stage 1, gradients from 2, weights from 3 over
    the ranks that hold the same parameters: all for most, world / expert_parallel for experts.
    One rank has nothing to spread, and trains at stage 0. Below float32 the optimizer also keeps
    float32 weights, and at stage 0 gradients are float32. What is left to the host by `offload` is
    not counted. With checkpointing a layer keeps its input, and one layer at a time all the rest.
    """
    others, experts, activations = _on_meta(
        Key(config), batch_size, sequence_length, dtype, checkpointing
    )
    stage = zero if world > 1 or offload else 0
    wide = dtype.itemsize < MASTER_BYTES
    optimizer_bytes = MASTER_BYTES * (ADAM_STATES + wide)

    def held(bytes_each: int, from_stage: int) -> int:
        spread = (world, world // expert_parallel) if stage >= from_stage else (1, 1)
        mine = -(-others // spread[0]) + -(-experts // expert_parallel // spread[1])
        return bytes_each * mine

    return Memory(
        weights=held(dtype.itemsize, 3),
        gradients=held(dtype.itemsize if stage else MASTER_BYTES, 2),
        optimizer=0 if offload else held(optimizer_bytes, 1),
        activations=activations,
    )


@lru_cache(maxsize=64)
def _on_meta(
    key: Key, batch_size: int, sequence_length: int, dtype: torch.dtype, checkpointing: bool
) -> tuple[int, ...]:
    """Parameters outside and inside of experts, and bytes of activations."""

    def measured(config: ModelConfig) -> tuple[int, ...]:
        with torch.device("meta"):
            model = build(config).to(dtype)
            inputs = blank(model, batch_size, sequence_length)
            activations = (_checkpointed if checkpointing else saved_bytes)(model, inputs)
        experts = sum(p.numel() for p in model.parameters() if getattr(p, "expert", False))
        return sum(p.numel() for p in model.parameters()) - experts, experts, activations

    return by_periods(key.config, measured)


def decoding_state(config: ModelConfig, length: int = 64) -> State:
    """The cache's growth between `length` and twice `length` tokens, of an encoder-decoder also
    those of the source; nothing where a position sees later ones."""
    if looking_ahead(config.recipe):
        return State(0, 0.0)

    def held(config: ModelConfig) -> tuple[int, ...]:
        with torch.device("meta"), torch.no_grad():
            model = build(config)
            lengths = ((length, length), (length, 2 * length), (2 * length, length))
            n = len(lengths) if model.encoder is not None else 2
            return tuple(_held(model, *pair) for pair in lengths[:n])

    once, twice, *longer = by_periods(config, held)
    per_token = (twice - once) / length
    per_source = (longer[0] - once) / length if longer else 0.0
    fixed = round(once - (per_token + per_source) * length)
    return State(fixed, per_token, per_source)


def _held(model: Model, source: int, length: int) -> int:
    """Elements of a cache after so many tokens, of a source and of the decoder."""
    cache, tokens = model.new_cache(), torch.zeros(1, length, dtype=torch.long)
    if model.encoder is None:
        model.run(tokens, cache=cache)
    else:
        given = torch.zeros(1, source, dtype=torch.long)
        model.run(given, decoder_tokens=tokens, cache=cache)
    slots = [slot for layer in cache.slots for slot in layer]
    return sum(tensor.numel() for slot in slots for tensor in slot.values())


def saved_bytes(model: Model, inputs: dict[str, Any]) -> int:
    """Bytes that a forward pass with its loss keeps for the backward pass, on any device; `inputs`
    are those of `models.training.losses`."""
    ledger = _Ledger(model)
    with ledger:
        losses(model, **inputs).total.requires_grad_()
    return ledger.bytes


def _checkpointed(model: Model, inputs: dict[str, Any]) -> int:
    """Everything outside the layers, each layer's input, and the largest layer's own."""
    inside: list[int] = []
    outside = saved_bytes(model, inputs)

    def measured(layer: Layer, args: tuple[Any, ...]) -> None:
        x_BTD, context, *_ = args
        ledger = _Ledger(model)
        with ledger, torch.enable_grad():
            layer.forward(x_BTD.detach().requires_grad_(), context)
        inside.append(ledger.bytes)
        inputs_of.append(x_BTD.numel() * x_BTD.element_size())

    inputs_of: list[int] = []
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    hooks = [layer.register_forward_pre_hook(measured) for layer in layers]
    with torch.no_grad():
        losses(model, **inputs)
    for hook in hooks:
        hook.remove()
    return outside - sum(inside) + sum(inputs_of) + max(inside)


class _Ledger(torch.autograd.graph.saved_tensors_hooks):
    """Bytes of the storages that are saved for backward, parameters and integers' owners apart."""

    def __init__(self, model: Model) -> None:
        self.bytes = 0
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        kept: list[Tensor] = []  # keeps storages alive, so that their addresses are theirs alone

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                own.add(storage._cdata)
                kept.append(tensor)
                self.bytes += storage.nbytes()
            return tensor

        super().__init__(pack, lambda tensor: tensor)
