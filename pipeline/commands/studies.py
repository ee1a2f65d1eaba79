"""A study as a whole: ``run``, ``plan``, ``status``, ``watch``, ``ui``."""

from __future__ import annotations

import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import (
    DebugOption,
    JsonOption,
    Overrides,
    SlotsOption,
    StudyArgument,
    ThereOption,
    app,
    console,
    print_json,
    study_at,
    study_name,
)
from pipeline.errors import BusyError

if TYPE_CHECKING:
    from pipeline.status import Placed


@app.command(
    epilog="Example: isoflop run configs/studies/quickstart.yaml train.sequence_length=256"
)
def run(
    study: StudyArgument,
    overrides: Overrides = None,
    slots: SlotsOption = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", "-c", help="On a node of it: train on all of its nodes."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="If it is being run already, watch it.")
    ] = False,
    device_hours: Annotated[
        float | None,
        typer.Option(
            "--max-gpu-hours",
            min=0,
            help="Train for so many slot-hours at most in this command, and fit what is finished.",
        ),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Run a whole study: tokens, plan, training, laws, MLflow. Run again, it goes on."""
    from pipeline.cluster_file import check_shared, load_cluster
    from pipeline.config import load_study

    loaded = load_study(study, overrides, check=True)
    joined = load_cluster(cluster) if cluster else None
    if joined and cluster:
        check_shared(joined, cluster)
    from pipeline.study import run_study

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_study(loaded, console(), slots, joined, device_hours)
    except BusyError as busy:
        if not follow:
            raise
        console().print(str(busy).partition(";")[0], markup=False)
        from pipeline.watch import watch as watch_study

        watch_study(loaded, console())
    except KeyboardInterrupt as stop:
        from pipeline.show import stopped

        console().print(stopped(stop), markup=False)
        raise typer.Exit(130) from None


@app.command(
    epilog="Example: isoflop plan configs/studies/quickstart.yaml 'grid.budgets=[1e11]' --json"
)
def plan(
    study: StudyArgument,
    overrides: Overrides = None,
    slots: SlotsOption = None,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="Money for a slot (a GPU) and an hour.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", "-c", help="Plan for what this cluster's file has.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """The preflight alone: runs, tokens, FLOPs, memory, disk, time and money. Trains nothing."""
    from pipeline.cluster_file import load_cluster
    from pipeline.config import load_study

    loaded = load_study(study, overrides, check=True)
    planned = load_cluster(cluster) if cluster else None
    from pipeline.study import preflight

    ready = preflight(loaded, console(as_json), slots, price, planned)
    if as_json:
        print_json(ready.to_dict())


@app.command(epilog="Example: isoflop status quickstart --watch")
def status(
    study: StudyArgument,
    overrides: Overrides = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh for as long as somebody runs it.")
    ] = False,
    cluster: ThereOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Where every run of a study stands, read from the journals."""
    from pipeline.config import load_study
    from pipeline.status import show_status, status_rows

    if cluster:
        from pipeline.ray_jobs import cluster_at
        from pipeline.submit import There

        placed: Placed = There(study_name(study, overrides), cluster_at(cluster).shared)
    else:
        placed = load_study(study, overrides)
    if as_json:
        print_json(status_rows(placed))
    else:
        show_status(placed, console(), watch)


@app.command(epilog="Example: isoflop pause quickstart, and later: isoflop pause quickstart --off")
def pause(
    study: StudyArgument,
    overrides: Overrides = None,
    off: Annotated[bool, typer.Option("--off", help="Go on.")] = False,
    cluster: ThereOption = None,
    debug: DebugOption = False,
) -> None:
    """Hold a running study: its runs save their state and free their slots, until --off."""
    from pipeline.status import pause as hold

    console().print(hold(study_at(study, overrides, cluster), off), markup=False)


@app.command(epilog="Example: isoflop watch quickstart")
def watch(
    study: StudyArgument,
    overrides: Overrides = None,
    cluster: ThereOption = None,
    debug: DebugOption = False,
) -> None:
    """A live page while it is being run: slots, rates, time left, curves, the law so far."""
    from pipeline.watch import watch as follow

    follow(study_at(study, overrides, cluster), console())


@app.command(epilog="Example: isoflop ui quickstart --port 5001")
def ui(
    study: StudyArgument,
    overrides: Overrides = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on loopback.")] = 5000,
    cluster: ThereOption = None,
    debug: DebugOption = False,
) -> None:
    """Open MLflow over a study's store, on loopback only."""
    from pipeline.mlflow_ui import serve_ui

    say, loaded = partial(console().print, markup=False), study_at(study, overrides, cluster)
    sys.exit(serve_ui(loaded.folder, port, loaded.mlflow, say))
