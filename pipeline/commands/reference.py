"""What there is to write: ``schema``; and which version reads it: ``--version``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline import __version__
from pipeline.commands.options import DebugOption, app, print_json


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"isoflop {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and leave."),
    ] = False,
) -> None: ...


@app.command(epilog="Example: isoflop schema > study.schema.json")
def schema(debug: DebugOption = False) -> None:
    """The JSON schema of a study, by which an editor completes and checks one."""
    from pipeline.keys import schema as keys

    print_json(keys())
