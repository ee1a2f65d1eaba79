"""What training and decoding hold in memory, derived from the model run on the meta device.

Activations are the tensors that autograd saves for the backward pass, each storage once; states are
what a cache holds after a number of tokens. Neither is written per model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from models.assembly import build
from models.context import Context
from models.loss import cross_entropy
from models.model import Model
from models.recipe import ModelConfig
from models.residual import Layer

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
    """Elements that a cache holds for one sequence: `fixed`, and `per_token` of context."""

    fixed: int
    per_token: float


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
) -> Memory:
    """Memory of one rank whose micro-batch is `batch_size` sequences, under AdamW.

    ZeRO (1910.02054) spreads optimizer states from stage 1, gradients from 2, weights from 3 over
    the ranks that hold the same parameters: all for most, world / expert_parallel for experts.
    Below float32 the optimizer also keeps float32 weights. With checkpointing a layer keeps its
    input, and one layer at a time all the rest.
    """
    with torch.device("meta"):
        model = build(config).to(dtype)
        tokens = torch.zeros(batch_size, sequence_length, dtype=torch.long)
        activations = _checkpointed(model, tokens) if checkpointing else _saved(model, tokens)
    experts = sum(p.numel() for p in model.parameters() if getattr(p, "expert", False))
    others = sum(p.numel() for p in model.parameters()) - experts
    wide = dtype.itemsize < MASTER_BYTES
    optimizer_bytes = MASTER_BYTES * (ADAM_STATES + wide)

    def held(bytes_each: int, from_stage: int) -> int:
        spread = (world, world // expert_parallel) if zero >= from_stage else (1, 1)
        mine = -(-others // spread[0]) + -(-experts // expert_parallel // spread[1])
        return bytes_each * mine

    return Memory(
        weights=held(dtype.itemsize, 3),
        gradients=held(dtype.itemsize, 2),
        optimizer=held(optimizer_bytes, 1),
        activations=activations,
    )


def decoding_state(config: ModelConfig, length: int = 64) -> State:
    """The cache's growth between `length` and twice `length` tokens."""
    with torch.device("meta"), torch.no_grad():
        model = build(config)
        held = []
        for n in (length, 2 * length):
            cache = model.new_cache()
            model.run(torch.zeros(1, n, dtype=torch.long), cache=cache)
            slots = [slot for layer in cache.slots for slot in layer]
            held.append(sum(tensor.numel() for slot in slots for tensor in slot.values()))
    per_token = (held[1] - held[0]) / length
    return State(fixed=round(held[0] - per_token * length), per_token=per_token)


def saved_bytes(model: Model, tokens_BT: Tensor) -> int:
    """Bytes that a forward pass with its loss keeps for the backward pass, on any device."""
    return _saved(model, tokens_BT)


def _saved(model: Model, tokens_BT: Tensor) -> int:
    ledger = _Ledger(model)
    with ledger:
        out = model.run(tokens_BT)
        loss = cross_entropy(out.logits, tokens_BT).total
        loss = loss + sum(weight * out.aux[name] for name, weight in model.aux_weights.items())
        loss.requires_grad_()
    return ledger.bytes


def _checkpointed(model: Model, tokens_BT: Tensor) -> int:
    """Everything outside the layers, each layer's input, and the largest layer's own."""
    inside: list[int] = []
    inputs: list[int] = []
    forwards = [layer for layer in model.layers if isinstance(layer, Layer)]
    total = _saved(model, tokens_BT)
    x_BTD = model.embedding(tokens_BT).detach().requires_grad_()
    for layer in forwards:
        ledger = _Ledger(model)
        with ledger:
            layer(x_BTD, Context())
        inside.append(ledger.bytes)
        inputs.append(x_BTD.numel() * x_BTD.element_size())
    return total - sum(inside) + sum(inputs) + max(inside)


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
