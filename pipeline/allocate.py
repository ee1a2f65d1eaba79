"""What a study's law recommends at a budget, and the study of the run that follows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group

from analysis.notices import AnalysisError
from analysis.result import Allocation, Fit
from pipeline.atomic import write_text
from pipeline.config import Study
from pipeline.errors import StudyError
from pipeline.fitted import architectures_of, fit_of
from pipeline.forecasts import freeze_run
from pipeline.grids import Point
from pipeline.law_files import Laws
from pipeline.plan import PLAN, Plan
from pipeline.planner import Shape, make_plan
from pipeline.runs import make_run, row, run_flops, run_tokens
from pipeline.show import interval, quantity
from pipeline.tables import new_table, short, titled
from pipeline.yaml_file import dump_yaml


def predict_study(study: Study, flops: float, architecture: str | None) -> list[dict[str, Any]]:
    """For each architecture: the allocation at ``flops`` with intervals, and a RunConfig for it.

    Raises:
        StudyError: no such architecture, no fitted law, or a law that its runs do not identify.
    """
    _positive(flops)
    names = architectures_of(study, architecture)
    plan = Plan.read(study.folder / PLAN)
    return [_predict(study, plan, name, flops) for name in names]


def predict_laws(laws: Laws, flops: float, architecture: str | None) -> list[dict[str, Any]]:
    """The same allocations by laws alone, which no recipe is known of; of several laws those that
    tell none are ``refused``, with the reason.

    Raises:
        StudyError: no such law; or none that has an optimum and is identified by its runs.
    """
    _positive(flops)
    found: list[dict[str, Any]] = []
    for name, fit in laws.of(architecture).items():
        about = {"architecture": name, "convention": fit.data.convention}
        try:
            found.append(about | {"allocation": fit.allocate(flops).to_dict()})
        except AnalysisError as error:
            found.append(about | {"refused": str(error)})
    if all("refused" in one for one in found):
        reasons = (f"{laws.name}/{one['architecture']}: {one['refused']}" for one in found)
        raise StudyError("\n".join(reasons))
    return found


def prediction_table(predictions: list[dict[str, Any]], flops: float) -> Group:
    """The allocations side by side; of a study also shapes, and where the RunConfigs are."""
    refused = [
        f"{one['architecture']}: {one['refused']}" for one in predictions if "refused" in one
    ]
    predictions = [found for found in predictions if "allocation" in found]
    is_shaped = all("run" in found for found in predictions)
    shape = ["nearest shape"] if is_shaped else []
    table = new_table(["", "N*", "D*", "D*/N*", "loss", *shape])
    for found in predictions:
        best = found["allocation"]
        cells = [interval(best[key]) for key in ("params", "tokens", "tokens_per_param", "loss")]
        if is_shaped:
            model = found["run"]["model"]
            cells.append(f"{model['width']} wide, {model['n_layers']} layers")
        table.add_row(found["architecture"], *cells)
    configs = [f"config  {found['config']}" for found in predictions if is_shaped]
    title = f"Compute-optimal at {flops:.3g} training FLOPs, with 95% intervals"
    return titled(title, table, *configs, *refused)


def allocate_study(study: Study, flops: float, architecture: str | None) -> list[dict[str, Any]]:
    """Write the study of the compute-optimal run at ``flops``, its forecast frozen beside it.

    One entry an architecture: the recommendation, the file that `isoflop run` takes, the run that
    it plans, and the forecast of it.

    Raises:
        StudyError: as `predict_study`; or that run cannot be planned, or was trained already.
    """
    _positive(flops)
    plan = Plan.read(study.folder / PLAN)
    names = architectures_of(study, architecture)
    return [_allocate(study, plan, name, flops) for name in names]


def allocation_table(found: list[dict[str, Any]], flops: float) -> Group:
    """The runs side by side with their forecasts, then the files."""
    table = new_table(["", "N*", "N", "D", "epochs", "forecast", "interval"])
    for one in found:
        forecast, run = one["forecast"], one["run"]
        table.add_row(
            one["architecture"],
            interval(one["allocation"]["params"]),
            quantity(run["params"]),
            quantity(run["tokens"]),
            f"{run['epochs']:.2f}",
            f"{forecast['loss']:.4f}",
            f"{forecast['low']:.4f} to {forecast['high']:.4f}",
        )
    title = f"To train at {flops:.3g} FLOPs; the forecasts are frozen"
    return titled(title, table, *(f"isoflop run {one['study']}" for one in found))


def _positive(flops: float) -> None:
    if not flops > 0 or flops == float("inf"):
        raise StudyError(f"--flops: given {flops}, allowed: a positive finite number")


def _allocate(study: Study, plan: Plan, architecture: str, flops: float) -> dict[str, Any]:
    fit, best, shape = _recommended(study, plan, architecture, flops)
    values = _study_of(study, architecture, shape, flops)
    child = Study.model_validate(values)
    [run] = make_plan(child, plan.tokens).runs
    path = study.folder / "allocations" / f"{child.name}.yaml"
    write_text(path, dump_yaml(values))
    target = {"params": float(run.labels["params"]), "tokens": float(run_tokens(run))}
    return {
        "architecture": architecture,
        "allocation": best.to_dict(),
        "study": str(path),
        "run": row(run),
        "forecast": freeze_run(child, architecture, fit, target, run_flops(run)),
    }


def _study_of(study: Study, architecture: str, shape: Shape, flops: float) -> dict[str, Any]:
    """A study of one run, with all else as in the one that the law is of."""
    size, variant = shape.params(study.grid.convention), study.variants[architecture]
    given = study.architectures[variant.family].model_dump(mode="json")
    return study.model_dump(mode="json") | {
        "name": f"{study.name}-{architecture}-{flops:.3g}".replace("+", ""),
        "question": f"Does the law of {study.name} hold at {flops:.3g} FLOPs?",
        "architectures": {architecture: given | {"recipe": variant.recipe}},
        "grid": {
            "type": "ladder",
            "params": [float(size)],
            "tokens_per_parameter": [flops / shape.flops_per_token / size],
            "trunk": False,
            "seeds": study.grid.seeds[:1],
            **{name: getattr(study.grid, name) for name in ("convention", "max_epochs")},
        },
        "fit": study.fit.model_dump(mode="json", exclude={"baseline"}),
    }


def _recommended(
    study: Study, plan: Plan, architecture: str, flops: float
) -> tuple[Fit, Allocation, Shape]:
    """The law, what it recommends, and the shape nearest to that."""
    from models import Recipe, cost
    from models.size import nearest as nearest_shape

    fit = fit_of(study, architecture)
    try:
        best = fit.allocate(flops)
    except AnalysisError as error:
        raise StudyError(f"architectures.{architecture}: {error}") from None
    model = nearest_shape(
        Recipe.from_dict(study.variants[architecture].recipe),
        vocab_size=plan.tokens.vocab_size,
        target=best.params.value,
        convention=study.grid.convention,
    )
    return fit, best, Shape(model, cost(model, study.train.sequence_length))


def _predict(study: Study, plan: Plan, architecture: str, flops: float) -> dict[str, Any]:
    _, best, shape = _recommended(study, plan, architecture, flops)
    name = f"{flops:.3g}-{short(shape.params(study.grid.convention))}"
    point = Point(shape, flops / shape.flops_per_token, name, flops, study.grid.seeds[0])
    run = make_run(study, plan.tokens, study.variants[architecture], point)
    config = Path(study.folder / "predictions" / f"{run.name}.json")
    config.parent.mkdir(parents=True, exist_ok=True)
    run.write(config)
    return {
        "architecture": architecture,
        "convention": study.grid.convention,
        "allocation": best.to_dict(),
        "run": run.model_dump(mode="json"),
        "config": str(config),
    }
