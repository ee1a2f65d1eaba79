"""The application, and what its commands share: arguments, options, where to print."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

if TYPE_CHECKING:
    from pipeline.config import Study

LOG_WIDTH = 132

COMMANDS = (
    *("run", "plan", "status", "watch", "pause", "ui", "studies", "clean"),
    *("fit", "predict", "allocate", "forecast", "compare"),
    *("cost", "export", "generate", "doctor", "schema"),
    *("submit", "resume", "jobs", "logs", "cancel", "cluster"),
)
"""In the order in which they are needed."""


class Ordered(TyperGroup):
    """Lists the commands so, wherever they are defined."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=COMMANDS.index)


app = typer.Typer(
    name="isoflop",
    cls=Ordered,
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
    typer.Argument(
        metavar="STUDY",
        help="A study's YAML file, a name under configs/studies, or the name of one that was run.",
    ),
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
ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster",
        "-c",
        envvar="ISOFLOP_CLUSTER",
        help="A cluster's YAML file, or a name under configs/clusters.",
    ),
]
ThereOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        "-c",
        help="Where it runs: a cluster's file, or its name. Its shared folder must be seen from "
        "here: on a laptop that does not, `logs` tells what the job prints.",
    ),
]
ArchitectureOption = Annotated[
    str | None, typer.Option("--architecture", "-a", help="Only this one.")
]
BudgetOption = Annotated[float, typer.Option("--flops", help="Training FLOPs to spend.")]
SlotsOption = Annotated[
    int | None,
    typer.Option(
        "--slots", min=1, help="Places for ranks, each a core or its GPUs (default: all)."
    ),
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


def study_at(study: str, overrides: list[str] | None, cluster: str | None) -> Study:
    """The study of a file or name; with ``cluster`` as that keeps it, in its shared folder.

    Raises:
        ConfigError: there is no such study, or it is wrong.
        StudyError: that folder is not seen from here, or has no such study.
    """
    from pipeline.config import load_study

    if cluster is None:
        return load_study(study, overrides)
    from pipeline.kept import find_study
    from pipeline.package import moved
    from pipeline.ray_jobs import cluster_at
    from pipeline.submit import There, check_seen

    described = cluster_at(cluster)
    check_seen(described.shared)
    found = moved(load_study(find_study(study, [described.shared]), overrides), described)
    There(found.name, described.shared).check()
    return found


def study_name(study: str, overrides: list[str] | None) -> str:
    """A study's name, given its file, or the name by which a cluster knows it."""
    from pipeline.config import load_study
    from pipeline.errors import ConfigError

    try:
        return load_study(study, overrides).name
    except ConfigError:
        if overrides or "/" in study or study.endswith((".yaml", ".yml")):
            raise
        return study


def console(as_json: bool = False) -> Console:
    """Where people read: standard output, or standard error where that is for JSON."""
    made = Console(stderr=as_json, highlight=False)
    if not made.is_terminal:
        made.width = max(made.width, LOG_WIDTH)  # a log file has no edge
    return made


def print_json(value: Any) -> None:
    """JSON on standard output, strict."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False, default=str) + "\n")
