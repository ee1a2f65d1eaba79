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
from pipeline.settings import ParallelSettings

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
    settings, shape = study.train, _shape(point)
    params = shape.params(study.grid.convention)
    parallel = study.parallel.at(params)
    hyper = _hyperparameters(study, point, params)
    micro = settings.micro_batch
    unit = max(1, parallel.ranks // parallel.sequence_parallel) * (micro or 1)
    batch = max(1, round(hyper.batch_tokens / settings.sequence_length / unit)) * unit
    steps = max(1, round(point.tokens / (batch * settings.sequence_length)))
    unique = min(point.unique_tokens or tokens.unique, tokens.unique)
    return RunConfig(
        name=f"{variant.name}-{point.name}-s{point.seed}".replace("+", ""),
        model=shape.model.to_dict(),
        data=DataConfig(
            train=tokens.train,
            heldout=tokens.heldout,
            fingerprint=tokens.fingerprint,
            sequence_length=settings.sequence_length,
            batch_size=batch,
            seed=point.seed,
            eval_tokens=settings.eval_tokens,
            separate_documents=settings.separate_documents,
            packing=settings.packing,
            unique_tokens=point.unique_tokens,
        ),
        train=TrainConfig(
            steps=steps,
            seed=point.seed,
            dtype=settings.dtype,
            micro_batch_size=micro,
            clip=settings.clip,
            optimizer=OptimizerConfig(
                learning_rate=hyper.learning_rate,
                betas=(settings.betas[0], settings.betas[1]),
                weight_decay=settings.weight_decay,
            ),
            schedule=ScheduleConfig(
                name=point.schedule or settings.schedule,
                warmup_steps=round(hyper.warmup_fraction * steps),
                final_fraction=settings.final_fraction,
            ),
            z_loss=settings.z_loss,
            label_smoothing=settings.label_smoothing,
            log_every=max(1, steps // settings.log_points),
            evaluations=min(settings.evaluations, steps),
            checkpoint_every=settings.checkpoint_steps,
            activation_checkpointing=settings.activation_checkpointing,
        ),
        parallel=ParallelConfig(
            ranks=parallel.ranks,
            zero_stage=parallel.zero_stage,
            expert_parallel=_expert_parallel(parallel, shape),
            sequence_parallel=parallel.sequence_parallel,
            sequence_mode=parallel.sequence_mode,
            threads=1 if parallel.gpus_per_rank == 0 else None,
            gpus_per_rank=parallel.gpus_per_rank,
        ),
        cost=CostConfig(
            params=ParamsConfig(**{name: shape.params(name) for name in ParamsConfig.model_fields}),
            training_flops_per_token=shape.flops_per_token,
        ),
        labels={
            "study": study.name,
            "architecture": variant.name,
            "family": variant.family,
            "role": point.role,
            "budget": point.budget,
            "convention": study.grid.convention,
            "params": params,
            "seed": point.seed,
            "unique_tokens": unique,
            **variant.labels,
        },
    )


def _shape(point: Point) -> Shape:
    from pipeline.planner import Shape

    assert isinstance(point.shape, Shape)
    return point.shape


def _hyperparameters(study: Study, point: Point, params: int) -> Hyperparameters:
    """The rule's, for the tokens whose batch and rate the point takes, unless it has its own."""
    tokens, flops = point.tokens, point.budget
    if point.like is not None:
        tokens, flops = point.like, point.like * point.shape.flops_per_token
    ruled = study.rule(params=params, tokens=tokens, flops=flops)
    return Hyperparameters(
        point.learning_rate or ruled.learning_rate,
        point.batch_tokens or ruled.batch_tokens,
        ruled.warmup_fraction,
    )


def _expert_parallel(parallel: ParallelSettings, shape: Shape) -> int:
    """Experts are spread over the gang's ranks, unless the study says otherwise."""
    if shape.cost.params.active == shape.cost.params.total:
        return 1
    return parallel.expert_parallel or parallel.ranks


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
        "learning_rate": run.train.optimizer.learning_rate,
        "schedule": run.train.schedule.name,
        "unique_tokens": labels["unique_tokens"],
        "epochs": tokens / float(labels["unique_tokens"]),
    }
