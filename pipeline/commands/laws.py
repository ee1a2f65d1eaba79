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
    ThereOption,
    app,
    console,
    print_json,
    study_at,
)
from pipeline.errors import IsoflopError

LawsArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY|LAWS",
        help="A study, a folder of laws (`isoflop fit runs.csv --save`), or one law's .json.",
    ),
]


@app.command(
    epilog="Example: isoflop fit quickstart fit.resamples=4000\n\n"
    "Example: isoflop fit runs.csv --law chinchilla --column tokens=D --save laws"
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
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            metavar="DIR",
            help="For a CSV: keep each architecture's law, plots and a report there, for `predict` "
            "and `compare`.",
        ),
    ] = None,
    cluster: ThereOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Fit laws to the finished runs of a study, or to any table; intervals, warnings and all."""
    if study.endswith(".csv"):
        _fit_csv(study, law, column or [], resamples, save, as_json)
        return
    if save:
        raise IsoflopError("--save: given for a study, allowed: for a CSV; a study keeps its laws")
    from pipeline.study import fit_study

    document = fit_study(study_at(study, overrides, cluster), console(as_json))
    if as_json:
        print_json(document["analysis"])


def _fit_csv(
    path: str, law: str, columns: list[str], resamples: int, save: Path | None, as_json: bool
) -> None:
    from analysis.cli_fit import fit_file, report

    for column in columns:
        if not all(column.partition("=")):
            raise IsoflopError(f"--column: given '{column}', allowed: such as tokens=D")
    names = {name: given for name, _, given in (column.partition("=") for column in columns)}
    if save:
        from pipeline.law_files import save_table

        saved = save_table(Path(path), law, names, resamples, save)
        if as_json:
            reports = {name: report(fitted) for name, fitted in saved.fits.items()}
            print_json({"folder": str(save), "laws": reports})
            return
        for name, fitted in saved.fits.items():
            console().print(f"{name}\n{fitted.summary()}\n", markup=False, soft_wrap=True)
        told = f"saved in {save}: `isoflop predict {save} --flops C` goes on with it"
        console().print(told, markup=False, soft_wrap=True)
        return
    fitted = fit_file(Path(path), law, names, resamples=resamples)
    if as_json:
        print_json(report(fitted))
    else:
        console().print(fitted.summary(), markup=False, soft_wrap=True)


@app.command(
    epilog="Example: isoflop predict quickstart --flops 1e15 --architecture dense\n\n"
    "Example: isoflop predict laws --flops 1e23, of what `isoflop fit runs.csv --save laws` kept"
)
def predict(
    study: LawsArgument,
    flops: BudgetOption,
    overrides: Overrides = None,
    architecture: ArchitectureOption = None,
    cluster: ThereOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """The compute-optimal model of each architecture at a budget: N*, D*, loss, intervals."""
    from pipeline.allocate import predict_laws, predict_study, prediction_table
    from pipeline.law_files import laws_at

    if laws := laws_at(study):
        _refuse_overrides(study, overrides)
        predictions = predict_laws(laws, flops, architecture)
    else:
        predictions = predict_study(study_at(study, overrides, cluster), flops, architecture)
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
    cluster: ThereOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the study of the compute-optimal run, its forecast frozen: `isoflop run` takes it."""
    from pipeline.allocate import allocate_study, allocation_table

    found = allocate_study(study_at(study, overrides, cluster), flops, architecture)
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
    cluster: ThereOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """The register of forecasts: freeze one before its run exists; those with a run are scored."""
    from pipeline.forecasts import forecast_records, forecast_study, forecast_table
    from pipeline.publish import send
    from pipeline.training import tracker

    chosen = study_at(study, overrides, cluster)
    register = forecast_study(chosen, flops, architecture)
    if as_json:
        print_json(register)
    else:
        console().print(forecast_table(register))
    send(tracker(chosen), forecast_records(register), console(as_json=True).print)


@app.command(epilog="Example: isoflop compare quickstart mine.yaml, or: isoflop compare laws mine")
def compare(
    first: LawsArgument,
    second: LawsArgument,
    cluster: ThereOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Two studies' laws side by side, and the gain in compute of the first over the second."""
    from pipeline.compare import compare as compare_laws
    from pipeline.compare import comparison_page, comparison_record
    from pipeline.law_files import laws_at, study_laws
    from pipeline.publish import send
    from pipeline.training import tracker

    ours, theirs = (
        laws_at(given) or study_laws(study_at(given, None, cluster)) for given in (first, second)
    )
    found = compare_laws(ours, theirs)
    if as_json:
        print_json(found.to_dict())
    else:
        console().print(comparison_page(found))
    if ours.study:
        send(tracker(ours.study), [comparison_record(found)], console(as_json=True).print)


def _refuse_overrides(given: str, overrides: list[str] | None) -> None:
    if overrides:
        raise IsoflopError(f"{overrides[0]}: given with {given}, allowed: with a study alone")
