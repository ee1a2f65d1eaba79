"""The zoo: ``cost``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.options import DebugOption, JsonOption, app, console, print_json


@app.command(epilog="Example: isoflop cost mixtral --width 4096 --depth 32 --vocabulary 32000")
def cost(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's file, or a name in configs/models.")
    ],
    width: Annotated[int, typer.Option("--width", min=1, help="Model width.")],
    depth: Annotated[int, typer.Option("--depth", min=1, help="Layers.")],
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", min=1, help="Tokens of a sequence.")
    ] = 4096,
    vocabulary: Annotated[int, typer.Option("--vocabulary", min=2, help="Tokens known.")] = 32_000,
    ranks: Annotated[
        int | None,
        typer.Option("--ranks", min=1, help="Also the memory of a rank among so many, by ZeRO."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Such as branches.attention.n_kv_heads=8."),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Exact parameters, FLOPs and memory of a recipe at a shape; no weight is allocated."""
    from pipeline.costing import cost_of, cost_table

    found = cost_of(recipe, overrides, width, depth, vocabulary, sequence_length, ranks)
    if as_json:
        print_json(found)
    else:
        console().print(cost_table(found))
