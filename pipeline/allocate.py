"""What a study's law recommends at a budget, with the run that would follow the recommendation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group

from analysis.notices import AnalysisError
from analysis.result import Fit
from pipeline.config import Study
from pipeline.errors import StudyError, nearest
from pipeline.fit_record import law_path
from pipeline.plan import Plan
from pipeline.planner import Shape
from pipeline.runs import make_run
from pipeline.show import interval, new_table, titled


def predict_study(study: Study, flops: float, architecture: str | None) -> list[dict[str, Any]]:
    """For each architecture: the allocation at ``flops`` with intervals, and a RunConfig for it.

    Raises:
        StudyError: no such architecture, no fitted law, or a law that its runs do not identify.
    """
    if not flops > 0 or flops == float("inf"):
        raise StudyError(f"--flops: given {flops}, allowed: a positive finite number")
    names = architectures_of(study, architecture)
    plan = Plan.read(study.folder / "plan.json")
    return [_predict(study, plan, name, flops) for name in names]


def prediction_table(predictions: list[dict[str, Any]], flops: float) -> Group:
    """The allocations side by side, then where the RunConfigs are."""
    table = new_table(["", "N*", "D*", "D*/N*", "loss", "nearest shape"])
    for found in predictions:
        best, shape = found["allocation"], found["run"]["model"]
        table.add_row(
            found["architecture"],
            *(interval(best[key]) for key in ("params", "tokens", "tokens_per_param", "loss")),
            f"{shape['width']} wide, {shape['n_layers']} layers",
        )
    configs = [f"config  {found['config']}" for found in predictions]
    title = f"Compute-optimal at {flops:.3g} training FLOPs, with 95% intervals"
    return titled(title, table, *configs)


def architectures_of(study: Study, architecture: str | None) -> list[str]:
    """The one that is asked for, or all.

    Raises:
        StudyError: the study has no such architecture.
    """
    if architecture is not None and architecture not in study.architectures:
        known = ", ".join(study.architectures)
        raise StudyError(
            f"--architecture: given '{architecture}', allowed: {known}"
            f"{nearest(architecture, study.architectures)}"
        )
    return [architecture] if architecture else list(study.architectures)


def fit_of(study: Study, architecture: str) -> Fit:
    """The law that was fitted to an architecture.

    Raises:
        StudyError: none was.
    """
    path = law_path(architecture, study.folder)
    if not path.is_file():
        raise StudyError(f"{path}: no fitted law; `isoflop fit {study.name}` fits what is finished")
    return Fit.from_json(path.read_text())


def _predict(study: Study, plan: Plan, architecture: str, flops: float) -> dict[str, Any]:
    from models import Recipe, cost
    from models.size import nearest as nearest_shape

    try:
        best = fit_of(study, architecture).allocate(flops)
    except AnalysisError as error:
        raise StudyError(f"architectures.{architecture}: {error}") from None
    model = nearest_shape(
        Recipe.from_dict(study.architectures[architecture].recipe),
        vocab_size=plan.tokens.vocab_size,
        target=best.params.value,
        convention=study.grid.convention,
    )
    shape = Shape(architecture, model, cost(model, study.train.sequence_length))
    run = make_run(study, plan.tokens, shape, flops, study.grid.seeds[0])
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
