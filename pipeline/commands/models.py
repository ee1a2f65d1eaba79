"""Models: ``cost`` before training; ``export`` and ``generate`` after it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands.options import DebugOption, JsonOption, app, console, print_json


@app.command(epilog="Example: isoflop cost mixtral --width 4096 --depth 32 --vocabulary 32000")
def cost(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's file, or a name in configs/models.")
    ],
    width: Annotated[
        int | None,
        typer.Option("--width", min=1, help="Model width; alone, at the depth of the rule."),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option("--depth", min=1, help="Layers; alone, at the width of the rule."),
    ] = None,
    params: Annotated[
        float | None,
        typer.Option("--params", min=1, help="Parameters in all, for the rule's nearest shape."),
    ] = None,
    flops_per_token: Annotated[
        float | None,
        typer.Option(
            "--flops-per-token", min=1, help="Training FLOPs, for the rule's nearest shape."
        ),
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option(
            "--sequence-length",
            min=1,
            help="Tokens of a sequence; by default 4,096, or half as many until it can be read.",
        ),
    ] = None,
    vocabulary: Annotated[int, typer.Option("--vocabulary", min=2, help="Tokens known.")] = 32_000,
    ranks: Annotated[
        int | None,
        typer.Option("--ranks", min=1, help="Also the memory of a rank among so many, by ZeRO."),
    ] = None,
    sequence_parallel: Annotated[
        int,
        typer.Option(
            "--sequence-parallel", min=1, help="Of those ranks, so many share a sequence."
        ),
    ] = 1,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Such as branches.attention.n_kv_heads=8."),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Exact parameters, FLOPs and memory of a recipe at a shape or size; no weight is allocated."""
    from pipeline.costing import Wanted, cost_of, cost_table

    wanted = Wanted(width=width, depth=depth, params=params, flops_per_token=flops_per_token)
    shape = (wanted, vocabulary, sequence_length)
    found = cost_of(recipe, overrides, *shape, ranks, sequence_parallel)
    if as_json:
        print_json(found)
    else:
        console().print(cost_table(found))


RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, or its name in studies/.")
]


@app.command(epilog="Example: isoflop export dense-1e12-60k-s0 exported --to hf")
def export(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    to: Annotated[
        Literal["hf"], typer.Option("--to", help="The layout: hf, transformers'.")
    ] = "hf",
    debug: DebugOption = False,
) -> None:
    """A run's model and tokenizer for others: safetensors that transformers' Auto classes load."""
    from pipeline.trained import export_hf, find_run

    console().print(f"{folder}: a {export_hf(find_run(run), folder)}, with its tokenizer")


@app.command(epilog="Example: isoflop generate dense-1e12-60k-s0 --prompt 'def main('")
def generate(
    run: RunArgument,
    prompt: Annotated[
        str, typer.Option("--prompt", help="Text to go on from, or an encoder's source.")
    ],
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="How many to add.")] = 64,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0: greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    debug: DebugOption = False,
) -> None:
    """Text from a trained run, decoded with its state cache."""
    from pipeline.trained import find_run
    from pipeline.trained import generate as text_from

    for i, piece in enumerate(text_from(find_run(run), prompt, tokens, temperature, seed)):
        if i == 0:  # now that it is known that there is something to go on with
            sys.stdout.write(prompt)
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
