"""Scaling laws: ``fit``, ``predict``, ``forecast``, ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import (
    ArchitectureOption,
    BudgetOption,
    DebugOption,
    JsonOption,
    Overrides,
    StudyArgument,
    app,
    console,
    print_json,
)


@app.command(
    epilog="Example: isoflop fit quickstart fit.resamples=4000\n\n"
    "Example: isoflop fit runs.csv --law chinchilla --column tokens=D --json"
)
def fit(
    study: Annotated[
        str, typer.Argument(metavar="STUDY|CSV", help="A study, or any table of runs as .csv.")
    ],
    overrides: Overrides = None,
    law: Annotated[str, typer.Option("--law", help="For a CSV: which law.")] = "chinchilla",
    column: Annotated[
        list[str] | None,
        typer.Option("--column", help="For a CSV: a name it uses, such as tokens=D; repeatable."),
    ] = None,
    resamples: Annotated[int, typer.Option("--resamples", min=0, help="For a CSV.")] = 1000,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Fit laws to the finished runs of a study, or to any table; intervals, warnings and all."""
    if study.endswith(".csv"):
        _fit_csv(study, law, column or [], resamples, as_json)
        return
    from pipeline.config import load_study
    from pipeline.study import fit_study

    document = fit_study(load_study(study, overrides), console(as_json))
    if as_json:
        print_json(document["analysis"])


def _fit_csv(path: str, law: str, columns: list[str], resamples: int, as_json: bool) -> None:
    from analysis.cli_fit import fit_file, report

    for column in columns:
        if not all(column.partition("=")):
            raise ValueError(f"--column: given '{column}', allowed: NAME=COLUMN, such as tokens=D")
    names = {name: given for name, _, given in (column.partition("=") for column in columns)}
    fitted = fit_file(Path(path), law, names, resamples=resamples)
    if as_json:
        print_json(report(fitted))
    else:
        console().print(fitted.summary(), markup=False, soft_wrap=True)


@app.command(epilog="Example: isoflop predict quickstart --flops 1e15 --architecture dense")
def predict(
    study: StudyArgument,
    flops: BudgetOption,
    overrides: Overrides = None,
    architecture: ArchitectureOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """The compute-optimal model of each architecture at a budget: N*, D*, loss, intervals."""
    from pipeline.allocate import predict_study, prediction_table
    from pipeline.config import load_study

    predictions = predict_study(load_study(study, overrides), flops, architecture)
    if as_json:
        print_json(predictions)
    else:
        console().print(prediction_table(predictions, flops))


@app.command(epilog="Example: isoflop allocate quickstart --flops 1e13 -a dense")
def allocate(
    study: StudyArgument,
    flops: BudgetOption,
    overrides: Overrides = None,
    architecture: ArchitectureOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the study of the compute-optimal run, its forecast frozen: `isoflop run` takes it."""
    from pipeline.allocate import allocate_study, allocation_table
    from pipeline.config import load_study

    found = allocate_study(load_study(study, overrides), flops, architecture)
    if as_json:
        print_json(found)
    else:
        console().print(allocation_table(found, flops))


@app.command(epilog="Example: isoflop forecast quickstart --flops 1e13 -a dense")
def forecast(
    study: StudyArgument,
    overrides: Overrides = None,
    flops: Annotated[
        float | None, typer.Option("--flops", help="Freeze a forecast for this budget.")
    ] = None,
    architecture: ArchitectureOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """The register of forecasts: freeze one before its run exists; those with a run are scored."""
    from pipeline.config import load_study
    from pipeline.forecasts import forecast_records, forecast_study, forecast_table
    from pipeline.publish import send
    from pipeline.training import tracker

    chosen = load_study(study, overrides)
    register = forecast_study(chosen, flops, architecture)
    if as_json:
        print_json(register)
    else:
        console().print(forecast_table(register))
    send(tracker(chosen), forecast_records(register), console(as_json=True).print)


@app.command(epilog="Example: isoflop compare quickstart mine.yaml")
def compare(
    first: StudyArgument,
    second: StudyArgument,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Two studies' laws side by side, and the gain in compute of the first over the second."""
    from pipeline.compare import compare_studies, comparison_page, comparison_record
    from pipeline.config import load_study
    from pipeline.publish import send
    from pipeline.training import tracker

    study = load_study(first)
    found = compare_studies(study, load_study(second))
    if as_json:
        print_json(found.to_dict())
    else:
        console().print(comparison_page(found))
    send(tracker(study), [comparison_record(found)], console(as_json=True).print)
