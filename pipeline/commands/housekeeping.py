"""Room on the disk: ``studies`` that lie in a folder, and ``clean``, which throws things away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import (
    DebugOption,
    JsonOption,
    Overrides,
    StudyArgument,
    ThereOption,
    app,
    console,
    print_json,
    study_at,
)
from pipeline.errors import IsoflopError


@app.command(epilog="Example: isoflop studies --output /data/studies")
def studies(
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="The folder of studies.")
    ] = Path("studies"),
    cluster: ThereOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """The studies in a folder: runs by status, last change, size on disk, who runs them."""
    from pipeline.housekeeping import studies_in, study_table

    if cluster:
        from pipeline.ray_jobs import cluster_at
        from pipeline.submit import check_seen

        output = Path(cluster_at(cluster).shared)
        check_seen(str(output))
    found = studies_in(output)
    if as_json:
        print_json([study.to_dict() for study in found])
    else:
        console().print(study_table(output, found))


@app.command(epilog="Example: isoflop clean quickstart --checkpoints, and then with --yes")
def clean(
    study: StudyArgument,
    overrides: Overrides = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Those of runs that have finished or diverged.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Throw them away.")] = False,
    cluster: ThereOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """What of a study may be thrown away, in bytes; with --yes it is, unless somebody runs it."""
    from pipeline.housekeeping import free_checkpoints, spare_checkpoints, spare_table

    if not checkpoints:
        raise IsoflopError("clean: given nothing to throw away, allowed: --checkpoints")
    placed = study_at(study, overrides, cluster)
    found = spare_checkpoints(placed)
    if yes:
        found = free_checkpoints(placed)
    if as_json:
        print_json({"freed": yes, "checkpoints": [spare.to_dict() for spare in found]})
    else:
        console().print(spare_table(placed, found, yes))
