"""What a recipe costs at a shape, for ``isoflop cost``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table

from pipeline.errors import ConfigError
from pipeline.tables import gibibytes, new_table, short, titled
from pipeline.yaml_file import find, read_yaml

if TYPE_CHECKING:
    from models import ModelConfig, Recipe


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a shape is found by: its width, its depth or both; or parameters in all, or training
    FLOPs per token. What is not given follows the recipe's rule (``models.size``)."""

    width: int | None = None
    depth: int | None = None
    params: float | None = None
    flops_per_token: float | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in asdict(self).items() if value is not None]
        if given != ["width", "depth"] and len(given) != 1:
            options = [f"--{name.replace('_', '-')}" for name in given] or ["nothing"]
            allowed = "--width, --depth or both, --params, or --flops-per-token"
            raise ConfigError([f"shape: given {' and '.join(options)}; allowed: {allowed}"])


def cost_of(
    name: str,
    overrides: list[str] | None,
    wanted: Wanted,
    vocabulary: int,
    sequence_length: int | None = None,
    ranks: int | None = None,
    sequence_parallel: int = 1,
) -> dict[str, Any]:
    """The exact cost of the recipe ``name`` at a shape, as JSON values.

    Raises:
        ConfigError: the recipe is wrong, makes no model of this shape, or none that
            ``sequence_parallel`` of the ranks can share the sequences of.
    """
    from models import Recipe, RecipeError, slicing

    file = read_yaml(find(name, "models", Path.cwd(), "recipe"), overrides)
    try:
        read = Recipe.from_dict(file.values)
        sequence_length = sequence_length or _readable(read)
        model, asked = _shaped(read, wanted, vocabulary, sequence_length)
        model.check_length(sequence_length)
        if sequence_parallel > 1:
            slicing.check(model, sequence_parallel, "ulysses")
    except RecipeError as error:
        raise ConfigError([f"{file.where(error.key)}: {error}"]) from None
    for what, whole in (("--ranks", ranks or 1), ("--sequence-length", sequence_length)):
        if whole % sequence_parallel:
            allowed = f"allowed: a divisor of {what}, which is {whole}"
            raise ConfigError([f"--sequence-parallel: given {sequence_parallel}; {allowed}"])
    from models import cost  # and torch, seconds after a fault would have been told

    shape = {"width": model.width, "n_layers": model.n_layers, "vocab_size": model.vocab_size}
    found = {"recipe": file.path.stem} | shape | asked | cost(model, sequence_length).to_dict()
    return found | (_memory(model, sequence_length // sequence_parallel, ranks) if ranks else {})


def _shaped(
    recipe: Recipe, wanted: Wanted, vocabulary: int, sequence_length: int
) -> tuple[ModelConfig, dict[str, Any]]:
    """The shape, and how near it comes to the size that was asked for, if one was."""
    from models import size

    if wanted.width is not None and wanted.depth is not None:
        shape = {"width": wanted.width, "n_layers": wanted.depth}
        return recipe.at(**shape, vocab_size=vocabulary), {}
    text = vocabulary - recipe.task.special  # to which the ladder adds the objective's own ids
    if wanted.width is not None:
        return size.with_width(recipe, wanted.width, text), {}
    if wanted.depth is not None:
        return size.with_depth(recipe, wanted.depth, text), {}
    kind, target = (
        ("total", wanted.params) if wanted.params else (size.FLOPS, wanted.flops_per_token)
    )
    assert target is not None
    given = {"convention": kind, "sequence_length": sequence_length}
    model = size.nearest(recipe, vocab_size=text, target=target, **given)  # type: ignore[arg-type]
    error = size.error(model, target, **given)  # type: ignore[arg-type]
    return model, {"asked": {"of": kind, "target": target, "error": error}}


def _readable(recipe: Recipe) -> int:
    """4,096 tokens, or half as many until the recipe's positions and sentinels are enough."""
    from models import ModelConfig, RecipeError

    length, model = 4096, ModelConfig(recipe=recipe, width=1, n_layers=1, vocab_size=1)
    while length > 1:
        try:
            model.check_length(length)
        except RecipeError:
            length //= 2
        else:
            break
    return length


def _memory(model: ModelConfig, sequence_length: int, ranks: int) -> dict[str, Any]:
    """Bytes of training so much of one bf16 sequence a rank at each ZeRO stage, and of state in
    decoding."""
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
    notes = ["bytes: bf16, AdamW, one sequence a rank; FLOPs: exact for the mask"]
    if "asked" in found:
        asked = found["asked"]
        what = "parameters" if asked["of"] == "total" else "training FLOPs per token"
        notes.append(
            f"nearest of the rule's shapes to {short(asked['target'])} {what}: "
            f"{asked['error']:+.1%}"
        )
    return titled(title, table, *notes)


def _add_memory(table: Table, found: dict[str, Any]) -> None:
    table.add_section()
    for stage, memory in found["training_bytes_by_zero_stage"].items():
        label = f"training memory of a rank of {found['ranks']}, ZeRO {stage}"
        table.add_row(label, gibibytes(memory["total"]), f"{memory['total']:,}")
    for name, count in found["state_bytes"].items():
        label = f"decoding state of a sequence, {name.replace('_', ' ')}"
        table.add_row(label, gibibytes(count), f"{count:,.0f}")
