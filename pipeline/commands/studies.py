"""A study as a whole: ``run``, ``plan``, ``status``, ``watch``, ``ui``."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import typer

from pipeline.commands.options import (
    DebugOption,
    JsonOption,
    Overrides,
    SlotsOption,
    StudyArgument,
    app,
    console,
    print_json,
)


@app.command(
    epilog="Example: isoflop run configs/studies/quickstart.yaml train.sequence_length=256"
)
def run(
    study: StudyArgument,
    overrides: Overrides = None,
    slots: SlotsOption = None,
    debug: DebugOption = False,
) -> None:
    """Run a whole study: tokens, plan, training, laws, MLflow. Run again, it goes on."""
    from pipeline.config import load_study

    loaded = load_study(study, overrides, check=True)
    from pipeline.study import run_study

    try:
        run_study(loaded, console(), slots)
    except KeyboardInterrupt:
        console().print("stopped; every run has saved its state, and the same command goes on")
        raise typer.Exit(130) from None


@app.command(
    epilog="Example: isoflop plan configs/studies/quickstart.yaml 'grid.budgets=[1e11]' --json"
)
def plan(
    study: StudyArgument,
    overrides: Overrides = None,
    slots: SlotsOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """The preflight alone: runs, tokens, epochs, FLOPs, and the time here. Trains nothing."""
    from pipeline.config import load_study

    loaded = load_study(study, overrides, check=True)
    from pipeline.plan import as_dict
    from pipeline.study import preflight

    ready = preflight(loaded, console(as_json), slots)
    if as_json:
        print_json(
            as_dict(ready.plan)
            | {"slots": ready.slots, "seconds": ready.seconds, "wall_seconds": ready.wall}
        )


@app.command(epilog="Example: isoflop status quickstart --watch")
def status(
    study: StudyArgument,
    overrides: Overrides = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh until all runs have ended.")
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Where every run of a study stands, read from the journals."""
    from pipeline.config import load_study
    from pipeline.status import show_status, status_rows

    loaded = load_study(study, overrides)
    if as_json:
        print_json(status_rows(loaded))
    else:
        show_status(loaded, console(), watch)


@app.command(epilog="Example: isoflop watch quickstart")
def watch(study: StudyArgument, overrides: Overrides = None, debug: DebugOption = False) -> None:
    """A live page until all runs have ended: slots, rates, time left, curves, the law so far."""
    from pipeline.config import load_study
    from pipeline.watch import watch as follow

    follow(load_study(study, overrides), console())


@app.command(epilog="Example: isoflop ui quickstart --port 5001")
def ui(
    study: StudyArgument,
    overrides: Overrides = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on loopback.")] = 5000,
    debug: DebugOption = False,
) -> None:
    """Open MLflow over a study's store, on loopback only."""
    from pipeline.config import load_study
    from pipeline.mlflow_ui import serve_ui

    say = partial(console().print, markup=False)
    sys.exit(serve_ui(load_study(study, overrides).folder, port, say=say))
