"""What a recipe costs at a shape, for ``isoflop cost``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group

from pipeline.config import find
from pipeline.errors import ConfigError
from pipeline.plan import short
from pipeline.show import new_table, titled
from pipeline.yaml_file import read_yaml


def cost_of(
    name: str,
    overrides: list[str] | None,
    width: int,
    depth: int,
    vocabulary: int,
    sequence_length: int,
) -> dict[str, Any]:
    """The exact cost of the recipe ``name`` at a shape, as JSON values.

    Raises:
        ConfigError: the recipe is wrong, or makes no model of this shape.
    """
    from models import Recipe, RecipeError, cost

    file = read_yaml(find(name, "models", Path.cwd(), "recipe"), overrides)
    try:
        model = Recipe.from_dict(file.values).at(width=width, n_layers=depth, vocab_size=vocabulary)
    except RecipeError as error:
        raise ConfigError([f"{file.where(error.key)}: {error}"]) from None
    shape = {"recipe": file.path.stem, "width": width, "n_layers": depth, "vocab_size": vocabulary}
    return shape | cost(model, sequence_length).to_dict()


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
    title = (
        f"{found['recipe']}: {found['width']} wide, {found['n_layers']} layers, vocabulary "
        f"{found['vocab_size']:,}, sequences of {found['sequence_length']:,}"
    )
    return titled(title, table)
