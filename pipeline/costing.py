"""What a recipe costs at a shape, for ``isoflop cost``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table

from pipeline.errors import ConfigError
from pipeline.tables import gibibytes, new_table, short, titled
from pipeline.yaml_file import find, read_yaml

if TYPE_CHECKING:
    from models import ModelConfig


def cost_of(
    name: str,
    overrides: list[str] | None,
    width: int,
    depth: int,
    vocabulary: int,
    sequence_length: int | None = None,
    ranks: int | None = None,
) -> dict[str, Any]:
    """The exact cost of the recipe ``name`` at a shape, as JSON values.

    Raises:
        ConfigError: the recipe is wrong, or makes no model of this shape.
    """
    from models import Recipe, RecipeError

    file = read_yaml(find(name, "models", Path.cwd(), "recipe"), overrides)
    try:
        model = Recipe.from_dict(file.values).at(width=width, n_layers=depth, vocab_size=vocabulary)
        sequence_length = sequence_length or _readable(model)
        model.check_length(sequence_length)
    except RecipeError as error:
        raise ConfigError([f"{file.where(error.key)}: {error}"]) from None
    from models import cost  # and torch, seconds after a fault would have been told

    shape = {"recipe": file.path.stem, "width": width, "n_layers": depth, "vocab_size": vocabulary}
    found = shape | cost(model, sequence_length).to_dict()
    return found | (_memory(model, sequence_length, ranks) if ranks else {})


def _readable(model: ModelConfig) -> int:
    """4,096 tokens, or half as many until the recipe's positions and sentinels are enough."""
    from models import RecipeError

    length = 4096
    while length > 1:
        try:
            model.check_length(length)
        except RecipeError:
            length //= 2
        else:
            break
    return length


def _memory(model: ModelConfig, sequence_length: int, ranks: int) -> dict[str, Any]:
    """Bytes of training one bf16 sequence a rank at each ZeRO stage, and of state in decoding."""
    import torch

    from models.memory import decoding_state, training_memory

    stages = {
        str(stage): training_memory(
            model,
            batch_size=1,
            sequence_length=sequence_length,
            dtype=torch.bfloat16,
            zero=stage,
            world=ranks,
        )
        for stage in range(4)
    }
    state = decoding_state(model)
    return {
        "ranks": ranks,
        "training_bytes_by_zero_stage": {
            stage: asdict(memory) | {"total": memory.total} for stage, memory in stages.items()
        },
        "state_bytes": {name: 2 * count for name, count in asdict(state).items()},
    }


def cost_table(found: dict[str, Any]) -> Group:
    """Parameters and FLOPs by part and by convention."""
    params, flops = found["params"], found["flops_per_token"]
    table = new_table(["", "", ""])
    for name in ("total", "active", "non_embedding", "compute", "embedding", "head", "trunk"):
        table.add_row(f"parameters, {name}", short(params[name]), f"{params[name]:,}")
    table.add_section()
    for name in ("matmul", "mixing", "total"):
        table.add_row(f"forward FLOPs per token, {name}", short(flops[name]), f"{flops[name]:,.0f}")
    table.add_section()
    for name, value in found["conventions"].items():
        table.add_row(f"training FLOPs per token, {name}", short(value), f"{value:,.0f}")
    if "ranks" in found:
        _add_memory(table, found)
    title = (
        f"{found['recipe']}: {found['width']} wide, {found['n_layers']} layers, vocabulary "
        f"{found['vocab_size']:,}, sequences of {found['sequence_length']:,}"
    )
    return titled(
        title, table, "bytes: bf16, AdamW, one sequence a rank; FLOPs: exact for the mask"
    )


def _add_memory(table: Table, found: dict[str, Any]) -> None:
    table.add_section()
    for stage, memory in found["training_bytes_by_zero_stage"].items():
        label = f"training memory of a rank of {found['ranks']}, ZeRO {stage}"
        table.add_row(label, gibibytes(memory["total"]), f"{memory['total']:,}")
    for name, count in found["state_bytes"].items():
        label = f"decoding state of a sequence, {name.replace('_', ' ')}"
        table.add_row(label, gibibytes(count), f"{count:,.0f}")
