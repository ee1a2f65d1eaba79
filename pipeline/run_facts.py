"""What MLflow is told of a run besides its curves: params to filter by, tags, figures to plot."""

from __future__ import annotations

import math
import subprocess
from functools import cache
from pathlib import Path

from launch.config import RunConfig
from pipeline.outbox import Ended, Sample
from pipeline.package import PARTS

TAGGED = ("architecture", "budget", "seed")


def params(config: RunConfig) -> dict[str, str]:
    """Immutable, and the same for every attempt. The study's own labels go last and win."""
    train, data, parallel = config.train, config.data, config.parallel
    tokens = train.steps * config.tokens_per_step
    shape: dict[str, object] = {
        key: config.model[key] for key in ("width", "n_layers") if key in config.model
    }
    facts: dict[str, object] = {
        **shape,
        **{f"params_{name}": count for name, count in config.cost.params.model_dump().items()},
        "tokens": tokens,
        "flops": tokens * config.cost.training_flops_per_token,
        "steps": train.steps,
        "batch_size": data.batch_size,
        "sequence_length": data.sequence_length,
        "optimizer": train.optimizer.name,
        "learning_rate": train.optimizer.learning_rate,
        "weight_decay": train.optimizer.weight_decay,
        "schedule": train.schedule.name,
        "warmup_steps": train.schedule.warmup_steps,
        "dtype": train.dtype,
        "seed": train.seed,
        "ranks": parallel.ranks,
        "zero_stage": parallel.zero_stage,
        "expert_parallel": parallel.expert_parallel,
        "sequence_parallel": parallel.sequence_parallel,
        **config.labels,
    }
    return {key: _text(value) for key, value in facts.items()}


def tags(config: RunConfig) -> dict[str, str]:
    labels = {key: _text(config.labels[key]) for key in TAGGED if key in config.labels}
    commit = git_commit()
    source = {"mlflow.source.git.commit": commit, "git_commit": commit} if commit else {}
    return {
        "kind": "train",
        "run": config.name,
        "fingerprint": config.fingerprint(),
        **labels,
        **source,
    }


def final_samples(config: RunConfig, ended: Ended) -> list[Sample]:
    """Where the run ended, in logarithms too, since MLflow's scatter charts have no log axis."""
    tokens = ended.step * config.tokens_per_step
    flops = tokens * config.cost.training_flops_per_token
    values = {"params": config.cost.params.compute, "tokens": tokens, "flops": flops}
    return [
        Sample(f"log10_{key}", math.log10(value), ended.time, ended.step)
        for key, value in values.items()
        if value
    ]


@cache
def git_commit() -> str | None:
    """The commit of the code that is running; None outside a git checkout."""
    return _git("rev-parse", "HEAD")


@cache
def has_changes() -> bool:
    """Whether the code that is running is not quite that commit's."""
    return bool(_git("status", "--porcelain", "--", *(f"../{part}" for part in PARTS)))


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
