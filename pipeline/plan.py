"""From a study and its tokens to the runs: exact shapes, tokens, steps and hyperparameters.

A plan is a pure function of the study and of what its corpus holds; a point that the grid asks for
and that cannot be run as asked is in ``Plan.skipped`` with the rule that left it out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.prepare import Prepared
from data.store import TokenStore
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
from models import Cost, ModelConfig, Recipe, cost
from models.size import shapes
from pipeline.atomic import write_text
from pipeline.config import IsoflopGrid, Study, fingerprint
from pipeline.errors import StudyError

PATHS = ("tokenizer", "train", "heldout")


@dataclass(frozen=True)
class Tokens:
    """The stores that a plan trains on and is judged on; ``unique`` counts the training tokens."""

    tokenizer: Path
    train: Path
    heldout: Path
    fingerprint: str
    unique: int
    vocab_size: int

    @classmethod
    def of(cls, prepared: Prepared) -> Tokens:
        """What a plan needs to know of a prepared corpus."""
        stores = [TokenStore.open(folder) for folder in (prepared.train, prepared.heldout)]
        identity = fingerprint([store.fingerprint for store in stores])
        return cls(
            tokenizer=prepared.tokenizer,
            train=prepared.train,
            heldout=prepared.heldout,
            fingerprint=identity,
            unique=stores[0].n_tokens,
            vocab_size=prepared.vocab_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {name: str(getattr(self, name)) for name in PATHS}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tokens:
        """Read what ``to_dict`` wrote."""
        paths = {name: Path(values[name]) for name in PATHS}
        return cls(**(values | paths))


@dataclass(frozen=True)
class Shape:
    """A model of one architecture with its exact cost at the study's sequence length."""

    architecture: str
    model: ModelConfig
    cost: Cost

    def params(self, convention: str) -> int:
        """Parameters under a convention: total, active, non_embedding or compute."""
        return int(getattr(self.cost.params, convention))

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs (forward and backward) per token."""
        return float(self.cost.training_flops_per_token)


@dataclass(frozen=True)
class Skipped:
    """A point of the grid that is not run, and the rule that says so."""

    architecture: str
    budget: float
    params: int
    rule: str
    detail: str


@dataclass(frozen=True)
class Plan:
    """The runs of a study, in the order of architecture, budget, size and seed."""

    runs: tuple[RunConfig, ...]
    skipped: tuple[Skipped, ...]
    tokens: Tokens

    @cached_property
    def flops(self) -> float:
        """Training FLOPs of the whole plan."""
        return sum(map(run_flops, self.runs))

    def write(self, path: Path) -> None:
        """The plan as JSON, atomically."""
        document = {
            "tokens": self.tokens.to_dict(),
            "runs": [run.model_dump(mode="json") for run in self.runs],
            "skipped": [asdict(point) for point in self.skipped],
        }
        write_text(path, json.dumps(document, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan that ``write`` wrote.

        Raises:
            StudyError: there is none.
        """
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:
            raise StudyError(
                f"{path}: no plan there; `isoflop run` or `isoflop plan` makes one"
            ) from None
        runs = tuple(RunConfig.model_validate_json(json.dumps(run)) for run in document["runs"])
        skipped = tuple(Skipped(**point) for point in document["skipped"])
        return cls(runs, skipped, Tokens.from_dict(document["tokens"]))


def run_tokens(run: RunConfig) -> int:
    """Training tokens of a run."""
    return run.train.steps * run.tokens_per_step


def run_flops(run: RunConfig) -> float:
    """Training FLOPs of a run, exact."""
    return run_tokens(run) * run.cost.training_flops_per_token


def run_folder(study: Study, run: RunConfig) -> Path:
    """Where a run lives: its name, and the fingerprint that makes it this run."""
    return study.folder / "runs" / f"{run.name}-{run.fingerprint()[:8]}"


def make_plan(study: Study, tokens: Tokens) -> Plan:
    """The runs of ``study`` over ``tokens``.

    Raises:
        StudyError: no point of the grid can be run.
    """
    runs: list[RunConfig] = []
    skipped: list[Skipped] = []
    for architecture, given in study.architectures.items():
        ladder = _ladder(study, architecture, Recipe.from_dict(given.recipe), tokens.vocab_size)
        for budget in sorted(study.grid.budgets):
            for shape in _sizes(study.grid, ladder, budget):
                for seed in study.grid.seeds:
                    run = make_run(study, tokens, shape, budget, seed)
                    fault = _fault(study.grid, run, tokens.unique)
                    if fault is None:
                        runs.append(run)
                    else:
                        params = shape.params(study.grid.convention)
                        skipped.append(Skipped(architecture, budget, params, *fault))
    if not runs:
        raise StudyError(
            f"study '{study.name}': no run is left: "
            + "; ".join(sorted({s.detail for s in skipped}))
        )
    return Plan(tuple(runs), tuple(skipped), tokens)


def _ladder(study: Study, architecture: str, recipe: Recipe, vocab_size: int) -> list[Shape]:
    """Every shape that the grid could want of this architecture, smallest first, with its cost."""
    grid = study.grid
    low, high = grid.reach
    ladder = [
        Shape(architecture, model, cost(model, study.train.sequence_length))
        for model in shapes(
            recipe, vocab_size=vocab_size, low=low, high=high, convention=grid.convention
        )
    ]
    if not ladder:
        raise StudyError(
            f"architectures.{architecture}: no shape of this recipe has between {low:,.0f} and "
            f"{high:,.0f} {grid.convention} parameters at a vocabulary of {vocab_size}; "
            "change grid.budgets or the recipe"
        )
    return ladder


def _sizes(grid: IsoflopGrid, ladder: Sequence[Shape], budget: float) -> Iterator[Shape]:
    """``grid.sizes`` distinct shapes, nearest to a geometric spread around the expected optimum."""

    def tokens_per_parameter(shape: Shape) -> float:
        return budget / shape.flops_per_token / shape.params(grid.convention)

    expected = min(
        ladder,
        key=lambda shape: abs(math.log(tokens_per_parameter(shape) / grid.tokens_per_parameter)),
    ).params(grid.convention)
    left = list(ladder)
    chosen: list[Shape] = []
    for step in range(min(grid.sizes, len(ladder))):
        exponent = 2 * step / (grid.sizes - 1) - 1 if grid.sizes > 1 else 0
        target = expected * grid.spread**exponent
        best = min(left, key=lambda shape: abs(math.log(shape.params(grid.convention) / target)))
        left.remove(best)
        chosen.append(best)
    yield from sorted(chosen, key=lambda shape: shape.params(grid.convention))


def make_run(study: Study, tokens: Tokens, shape: Shape, budget: float, seed: int) -> RunConfig:
    settings, parallel = study.train, study.parallel
    params = shape.params(study.grid.convention)
    wanted = budget / shape.flops_per_token
    hyper = study.rule(params=params, tokens=wanted, flops=budget)
    batch = (
        max(1, round(hyper.batch_tokens / settings.sequence_length / parallel.ranks))
        * parallel.ranks
    )
    steps = max(1, round(wanted / (batch * settings.sequence_length)))
    return RunConfig(
        name=f"{shape.architecture}-{budget:.3g}-{short(params)}-s{seed}".replace("+", ""),
        model=shape.model.to_dict(),
        data=DataConfig(
            train=tokens.train,
            heldout=tokens.heldout,
            fingerprint=tokens.fingerprint,
            sequence_length=settings.sequence_length,
            batch_size=batch,
            seed=seed,
            eval_tokens=settings.eval_tokens,
        ),
        train=TrainConfig(
            steps=steps,
            seed=seed,
            dtype=settings.dtype,
            clip=settings.clip,
            optimizer=OptimizerConfig(
                learning_rate=hyper.learning_rate,
                betas=(settings.betas[0], settings.betas[1]),
                weight_decay=settings.weight_decay,
            ),
            schedule=ScheduleConfig(
                name=settings.schedule,
                warmup_steps=round(hyper.warmup_fraction * steps),
                final_fraction=settings.final_fraction,
            ),
            z_loss=settings.z_loss,
            log_every=max(1, steps // settings.log_points),
            evaluations=min(settings.evaluations, steps),
            checkpoint_every=settings.checkpoint_steps,
        ),
        parallel=ParallelConfig(
            ranks=parallel.ranks,
            zero_stage=parallel.zero_stage,
            expert_parallel=_expert_parallel(study, shape),
            threads=1 if parallel.gpus_per_rank == 0 else None,
            gpus_per_rank=parallel.gpus_per_rank,
        ),
        cost=CostConfig(
            params=ParamsConfig(**{name: shape.params(name) for name in ParamsConfig.model_fields}),
            training_flops_per_token=shape.flops_per_token,
        ),
        labels={
            "study": study.name,
            "architecture": shape.architecture,
            "budget": budget,
            "convention": study.grid.convention,
            "params": params,
            "seed": seed,
            "unique_tokens": tokens.unique,
        },
    )


def _expert_parallel(study: Study, shape: Shape) -> int:
    """Experts are spread over the gang's ranks, unless the study says otherwise."""
    if shape.cost.params.active == shape.cost.params.total:
        return 1
    return study.parallel.expert_parallel or study.parallel.ranks


def _fault(grid: IsoflopGrid, run: RunConfig, unique: int) -> tuple[str, str] | None:
    epochs = run_tokens(run) / unique
    if run.train.steps < grid.min_steps:
        return "min_steps", f"{run.train.steps} steps, fewer than grid.min_steps = {grid.min_steps}"
    if epochs > grid.max_epochs:
        return "max_epochs", f"{epochs:.2f} epochs, more than grid.max_epochs = {grid.max_epochs:g}"
    return None


def short(count: float) -> str:
    """``61440`` as ``61.4k``: for names and tables."""
    for size, unit in ((1e12, "t"), (1e9, "b"), (1e6, "m"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}"


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan's rows for ``--json``: one flat mapping a run."""
    return {
        "unique_tokens": plan.tokens.unique,
        "flops": plan.flops,
        "runs": [row(run) for run in plan.runs],
        "skipped": [asdict(point) for point in plan.skipped],
    }


def row(run: RunConfig) -> dict[str, Any]:
    """What a run is, flat and typed: the left part of its row in the table."""
    tokens = run_tokens(run)
    return {
        "run": run.name,
        "fingerprint": run.fingerprint(),
        "architecture": run.labels["architecture"],
        "budget": run.labels["budget"],
        "seed": run.train.seed,
        "params": run.labels["params"],
        **{f"params_{name}": value for name, value in run.cost.params.model_dump().items()},
        "width": run.model.get("width"),
        "n_layers": run.model.get("n_layers"),
        "tokens": tokens,
        "flops": run_flops(run),
        "steps": run.train.steps,
        "batch_tokens": run.tokens_per_step,
        "learning_rate": run.train.optimizer.learning_rate,
        "unique_tokens": run.labels["unique_tokens"],
        "epochs": tokens / float(run.labels["unique_tokens"]),
    }
