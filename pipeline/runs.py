"""A planned run: from a point of the grid to a RunConfig, and what it is, flat and typed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from launch.config import (
    CostConfig,
    DataConfig,
    OptimizerConfig,
    ParallelConfig,
    ParamsConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from pipeline.config import Study
from pipeline.errors import StudyError
from pipeline.grids import Point, Variant
from pipeline.rules import Hyperparameters
from pipeline.settings import ParallelSettings, TrainSettings

if TYPE_CHECKING:
    from pipeline.plan import Tokens
    from pipeline.planner import Shape

PASSED_ON = ("experts", "granularity", "sparsity", "ratio", "first_share")
"""Labels of a variant that are columns of the table."""


def make_run(study: Study, tokens: Tokens, variant: Variant, point: Point) -> RunConfig:
    """The run of a point, its tokens rounded to whole steps.

    Raises:
        StudyError: no run can be what the study asks for.
    """
    try:
        return _run(study, tokens, variant, point)
    except ValidationError as error:
        told = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise StudyError(f"{variant.name}-{point.name}: {told}") from None


def _run(study: Study, tokens: Tokens, variant: Variant, point: Point) -> RunConfig:
    shape = _shape(point)
    parallel = study.parallel.at(shape.params(study.grid.convention))
    hyper = _hyperparameters(study, variant, point)
    data = _data(study, tokens, point, parallel, hyper)
    steps = max(1, round(point.tokens / (data.batch_size * data.sequence_length)))
    return RunConfig(
        name=f"{variant.name}-{point.name}-s{point.seed}".replace("+", ""),
        model=shape.model.to_dict(),
        data=data,
        train=_train(study.training(variant), point, hyper, steps),
        parallel=_parallel(parallel, shape),
        cost=CostConfig(
            params=ParamsConfig(**{name: shape.params(name) for name in ParamsConfig.model_fields}),
            training_flops_per_token=shape.flops_per_token,
        ),
        labels=_labels(study, tokens, variant, point),
    )


def _data(
    study: Study,
    tokens: Tokens,
    point: Point,
    parallel: ParallelSettings,
    hyper: Hyperparameters,
) -> DataConfig:
    """The batch is rounded to what every rank can read the same number of micro-batches of."""
    settings = study.train
    unit = max(1, parallel.ranks // parallel.sequence_parallel) * (settings.micro_batch or 1)
    return DataConfig(
        train=tokens.train,
        heldout=tokens.heldout,
        fingerprint=tokens.fingerprint,
        sequence_length=settings.sequence_length,
        batch_size=max(1, round(hyper.batch_tokens / settings.sequence_length / unit)) * unit,
        seed=point.seed,
        eval_tokens=settings.eval_tokens,
        separate_documents=settings.separate_documents,
        packing=settings.packing,
        unique_tokens=point.unique_tokens,
    )


def _train(
    settings: TrainSettings, point: Point, hyper: Hyperparameters, steps: int
) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        seed=point.seed,
        dtype=settings.dtype,
        micro_batch_size=settings.micro_batch,
        clip=settings.clip,
        optimizer=OptimizerConfig(
            name=settings.optimizer,
            learning_rate=hyper.learning_rate,
            betas=(settings.betas[0], settings.betas[1]),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        ),
        schedule=ScheduleConfig(
            name=point.schedule or settings.schedule,
            warmup_steps=round(hyper.warmup_fraction * steps),
            final_fraction=settings.final_fraction,
            decay_fraction=settings.decay_fraction,
        ),
        spikes=settings.spikes,
        z_loss=settings.z_loss,
        label_smoothing=settings.label_smoothing,
        log_every=max(1, steps // settings.log_points),
        evaluations=min(settings.evaluations, steps),
        checkpoint_every=settings.checkpoint_steps,
        keep_checkpoints=settings.keep_checkpoints,
        activation_checkpointing=settings.activation_checkpointing,
        compile=settings.compile,
    )


def _parallel(parallel: ParallelSettings, shape: Shape) -> ParallelConfig:
    params = shape.cost.params
    return ParallelConfig(
        ranks=parallel.ranks,
        zero_stage=parallel.zero_stage,
        expert_parallel=parallel.spread(has_experts=params.active < params.total),
        offload=parallel.offload,
        sequence_parallel=parallel.sequence_parallel,
        sequence_mode=parallel.sequence_mode,
        threads=1 if parallel.gpus_per_rank == 0 else None,
        gpus_per_rank=parallel.gpus_per_rank,
        placement=parallel.placement,
        step_timeout=parallel.step_timeout,
    )


def _labels(
    study: Study, tokens: Tokens, variant: Variant, point: Point
) -> dict[str, str | int | float]:
    convention = study.grid.convention
    return {
        "study": study.name,
        "architecture": variant.name,
        "family": variant.family,
        "role": point.role,
        "budget": point.budget,
        "convention": convention,
        "params": point.shape.params(convention),
        "seed": point.seed,
        "unique_tokens": min(point.unique_tokens or tokens.unique, tokens.unique),
        **variant.labels,
    }


def _shape(point: Point) -> Shape:
    from pipeline.planner import Shape

    assert isinstance(point.shape, Shape)
    return point.shape


def _hyperparameters(study: Study, variant: Variant, point: Point) -> Hyperparameters:
    """The rule's, for the tokens whose batch and rate the point takes, unless it has its own."""
    tokens, flops = point.tokens, point.budget
    if point.like is not None:
        tokens, flops = point.like, point.like * point.shape.flops_per_token
    params = point.shape.params(study.grid.convention)
    ruled = study.rule_of(variant)(params=params, tokens=tokens, flops=flops)
    return Hyperparameters(
        point.learning_rate or ruled.learning_rate,
        point.batch_tokens or ruled.batch_tokens,
        ruled.warmup_fraction,
    )


def run_tokens(run: RunConfig) -> int:
    """Training tokens of a run, those of its trunk included."""
    return run.train.steps * run.tokens_per_step


def run_flops(run: RunConfig) -> float:
    """Training FLOPs of a run, exact, those of its trunk included."""
    return run_tokens(run) * run.cost.training_flops_per_token


def own_steps(run: RunConfig) -> int:
    """Steps that the run takes itself, after those of its trunk."""
    return run.train.steps - (run.train.trunk.step if run.train.trunk else 0)


def own_flops(run: RunConfig) -> float:
    """Training FLOPs that the run spends itself."""
    return own_steps(run) * run.tokens_per_step * run.cost.training_flops_per_token


def width(run: RunConfig) -> float:
    """Devices that the run's gang takes: GPUs, or cores where it has none."""
    parallel = run.parallel
    return parallel.ranks * (parallel.gpus_per_rank or parallel.threads or 1)


def run_folder(study: Study, run: RunConfig) -> Path:
    """Where a run lives."""
    return folder_of(study.folder, run.name, run.fingerprint())


def folder_of(study: Path, name: str, fingerprint: str) -> Path:
    """Where a run lives in its study's folder: its name, and what makes it this run."""
    return study / "runs" / f"{name}-{fingerprint[:8]}"


def judged_on(recipe: Mapping[str, Any]) -> str:
    """The objective that a recipe's held-out loss is of: several tokens ahead are learned beside
    the next one, which alone is judged."""
    given = recipe.get("objective", "causal")
    kind = str(given["type"] if isinstance(given, Mapping) else given)
    return "causal" if kind == "multi_token" else kind


def row(run: RunConfig) -> dict[str, Any]:
    """What a run is, flat and typed: the left part of its row in the table."""
    tokens, labels = run_tokens(run), run.labels
    return {
        "run": run.name,
        "fingerprint": run.fingerprint(),
        "architecture": labels["architecture"],
        "family": labels.get("family", labels["architecture"]),
        "objective": judged_on(run.model.get("recipe", {})),
        "role": labels.get("role", "run"),
        "budget": labels["budget"],
        "seed": run.train.seed,
        "params": labels["params"],
        **{f"params_{name}": value for name, value in run.cost.params.model_dump().items()},
        **{name: labels[name] for name in PASSED_ON if name in labels},
        "width": run.model.get("width"),
        "n_layers": run.model.get("n_layers"),
        "tokens": tokens,
        "flops": run_flops(run),
        "own_flops": own_flops(run),
        "steps": run.train.steps,
        "batch_tokens": run.tokens_per_step,
        "optimizer": run.train.optimizer.name,
        "learning_rate": run.train.optimizer.learning_rate,
        "schedule": run.train.schedule.name,
        "unique_tokens": labels["unique_tokens"],
        "epochs": tokens / float(labels["unique_tokens"]),
    }
