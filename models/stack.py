"""A stack: layers of residual branches and what stands around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import limits
from models.branch import Aux
from models.context import Context, State
from models.linear import Linear
from models.positions import DistanceTable, LearnedTable, RelativeTable, SinusoidalTable
from models.residual import Layer, Residual


@dataclass
class Parts:
    """What a stack is built of. `project` leads from the embedding's width to the model's."""

    layers: Sequence[Layer]
    positions: LearnedTable | SinusoidalTable | None
    relative: RelativeTable | DistanceTable | None
    embedding_norm: nn.Module | None
    project: Linear | None
    final_norm: nn.Module | None


class Stack(nn.Module):
    """Token vectors (B, T, E) to the stream after the last norm (B, T, D)."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.positions = parts.positions
        self.embedding_norm = parts.embedding_norm
        self.project = parts.project
        self.relative = parts.relative
        self.layers = nn.ModuleList(parts.layers)
        self.final_norm = parts.final_norm

    def stream(
        self, x_BTE: Tensor, context: Context, slots: Sequence[list[State]] | None = None
    ) -> tuple[Tensor, Aux]:
        """Through all layers; `aux` by name and layer. `slots` are the layers' states."""
        x_BTD = self._placed(x_BTE, context)
        if self.relative is not None:
            length, slices = x_BTD.shape[1], context.slices
            part = (context.offset, length) if slices is None else (0, slices.size * length)
            context.relative = self.relative.between(*part)
        aux: Aux = {}
        for i, layer in enumerate(self.layers):
            x_BTD, reported = layer(x_BTD, context, slots[i] if slots else None)
            for name, value in reported.items():
                aux[f"{name}/{i}"] = value
        return (x_BTD if self.final_norm is None else self.final_norm(x_BTD)), aux

    def uses(self) -> list[Residual]:
        """Every use of a branch in order; a shared one comes up at each of its uses."""
        return [use for layer in self.layers if isinstance(layer, Layer) for use in layer.uses]

    def rebalance(self, aux: Aux, where: str = "") -> None:
        """After an optimizer step: let routers with a selection bias follow the loads in `aux`."""
        for i, layer in enumerate(self.layers):
            load = aux.get(f"load/{where}{i}")
            if load is not None and isinstance(layer, Layer):
                for use in layer.uses:
                    use.branch.rebalance(load)

    def _placed(self, x: Tensor, context: Context) -> Tensor:
        """Vectors with their positions, normed and as wide as the model; RecipeError past a table
        of positions."""
        if isinstance(self.positions, LearnedTable):
            limits.positions(self.positions.num_embeddings, context.offset + x.shape[1])
        if self.positions is not None:
            at = context.positions_BT
            if at is None:
                at = torch.arange(x.shape[1], device=x.device) + context.offset
            x = x + self.positions(at).to(x.dtype)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        return x if self.project is None else self.project(x)
