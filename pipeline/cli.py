"""The command line, ``isoflop``. A heavy package is imported by the command that needs it."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    name="isoflop",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A laboratory for scaling studies: plan, train, fit and compare, from one YAML file.\n\n"
    "Begin with: [bold]isoflop run configs/studies/quickstart.yaml[/bold]",
)

StudyArgument = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="A study's YAML file, or a name under configs/studies."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Dotted overrides, such as train.sequence_length=256.",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")
]
SlotsOption = Annotated[
    int | None, typer.Option("--slots", min=1, help="Cores to train on (default: all).")
]


def _debug(value: bool) -> None:
    if value:
        os.environ["ISOFLOP_DEBUG"] = "1"


DebugOption = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Show the traceback of an error.",
        callback=_debug,
        is_eager=True,
        expose_value=True,
    ),
]


def _console(as_json: bool = False) -> Console:
    """Where people read: standard output, or standard error where that is for JSON."""
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 132)  # a log file has no edge
    return console


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False, default=str) + "\n")


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

    run_study(loaded, _console(), slots)


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

    ready = preflight(loaded, _console(as_json), slots)
    if as_json:
        _print_json(
            as_dict(ready.plan)
            | {"slots": ready.slots, "seconds": ready.seconds, "wall_seconds": ready.wall}
        )


@app.command(epilog="Example: isoflop fit configs/studies/quickstart.yaml fit.resamples=4000")
def fit(
    study: StudyArgument,
    overrides: Overrides = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Fit the laws to the finished runs, whatever their number, and log them to MLflow."""
    from pipeline.config import load_study
    from pipeline.study import fit_study

    document = fit_study(load_study(study, overrides), _console(as_json))
    if as_json:
        _print_json(document["analysis"])


@app.command(epilog="Example: isoflop predict quickstart --flops 1e15 --architecture dense")
def predict(
    study: StudyArgument,
    flops: Annotated[float, typer.Option("--flops", help="Training FLOPs to spend.")],
    overrides: Overrides = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", "-a", help="Only this one.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """The compute-optimal model of each architecture at a budget: N*, D*, loss, intervals."""
    from pipeline.allocate import predict_study, prediction_table
    from pipeline.config import load_study

    predictions = predict_study(load_study(study, overrides), flops, architecture)
    if as_json:
        _print_json(predictions)
    else:
        _console().print(prediction_table(predictions, flops))


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
        _print_json(status_rows(loaded))
    else:
        show_status(loaded, _console(), watch)


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

    say = partial(_console().print, markup=False)
    sys.exit(serve_ui(load_study(study, overrides).folder, port, say=say))


@app.command(epilog="Example: isoflop doctor --json")
def doctor(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """What is installed, which engines will run, the devices, the measured matmul rate."""
    from pipeline.doctor import examine, report

    findings = examine()
    if as_json:
        _print_json(findings)
    else:
        _console().print(report(findings))


def main() -> None:
    """The entry point: a user's mistake is one clear message and exit code 2, never a traceback."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on from here")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("ISOFLOP_DEBUG"):
            raise
        Console(stderr=True, highlight=False).print(_message(error), markup=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, ValueError | OSError) else 1)


def _message(error: Exception) -> str:
    """An expected error as it is; an unexpected one with its kind and the way to see more."""
    if isinstance(error, ValueError):
        return f"error: {error}"
    if isinstance(error, OSError) and error.filename:
        return f"error: {Path(str(error.filename))}: {error.strerror}"
    return f"error: {type(error).__name__}: {error} (run again with --debug for the traceback)"
