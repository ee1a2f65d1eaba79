"""From a study and its tokens to its runs: exact shapes, tokens, steps and hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from launch.config import RunConfig
from models import Cost, ModelConfig, Recipe, cost
from models.size import shapes
from pipeline.config import Study
from pipeline.errors import StudyError
from pipeline.grids import Point, Proposal, Variant
from pipeline.grids.base import Grid
from pipeline.plan import Plan, Skipped, Tokens
from pipeline.runs import make_run, run_folder, run_tokens


@dataclass(frozen=True)
class Shape:
    """A model with its exact cost at the study's sequence length."""

    model: ModelConfig
    cost: Cost

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs (forward and backward) per token."""
        return float(self.cost.training_flops_per_token)

    def params(self, convention: str) -> int:
        """Parameters under a convention: total, active, non_embedding or compute."""
        return int(getattr(self.cost.params, convention))


def make_plan(study: Study, tokens: Tokens, proposals: Sequence[Proposal] = ()) -> Plan:
    """The runs of ``study`` over ``tokens``, those of ``proposals`` (earlier rounds) included.

    A pure function of its arguments; a point that cannot be run as asked is in ``Plan.skipped``
    with the rule that left it out.

    Raises:
        StudyError: no point of the grid can be run.
    """
    runs: list[RunConfig] = []
    skipped: list[Skipped] = []
    for variant in study.variants.values():
        own = [proposal for proposal in proposals if proposal.architecture == variant.name]
        points = study.grid.points(ladder(study, variant, tokens.vocab_size), own)
        found = list(possible(study, tokens, variant, points, skipped))
        runs += study.grid.linked(found, partial(run_folder, study))
    if not runs:
        raise StudyError(
            f"study '{study.name}': no run is left: "
            + "; ".join(sorted({point.detail for point in skipped}))
        )
    return Plan(tuple(runs), tuple(skipped), tokens)


def possible(
    study: Study,
    tokens: Tokens,
    variant: Variant,
    points: Iterable[Point],
    skipped: list[Skipped],
) -> Iterator[RunConfig]:
    """The runs of those points that can be run as asked; the others are added to ``skipped``."""
    for point in points:
        run = make_run(study, tokens, variant, point)
        if (fault := _fault(study.grid, run, tokens.unique)) is None:
            yield run
        else:
            params = point.shape.params(study.grid.convention)
            skipped.append(Skipped(variant.name, point.budget, params, *fault))


def ladder(study: Study, variant: Variant, vocab_size: int) -> list[Shape]:
    """Every shape that the grid could want of this variant, smallest first, with its cost."""
    low, high = study.grid.reach
    convention = study.grid.convention
    recipe = Recipe.from_dict(variant.recipe)
    found = [
        Shape(model, cost(model, study.train.sequence_length))
        for model in shapes(
            recipe, vocab_size=vocab_size, low=low, high=high, convention=convention
        )
    ]
    if not found:
        raise StudyError(
            f"architectures.{variant.name}: no shape of this recipe has between {low:,.0f} and "
            f"{high:,.0f} {convention} parameters at a vocabulary of {vocab_size}; "
            "change the grid's budgets or params, or the recipe"
        )
    return found


def _fault(grid: Grid, run: RunConfig, unique: int) -> tuple[str, str] | None:
    epochs = run_tokens(run) / float(run.labels["unique_tokens"])
    if run.train.steps < grid.min_steps:
        return "min_steps", f"{run.train.steps} steps, fewer than grid.min_steps = {grid.min_steps}"
    if (wanted := run.data.unique_tokens) and wanted > unique:
        return "unique_tokens", f"{wanted:,} unique tokens, more than the corpus's {unique:,}"
    if epochs > grid.max_epochs:
        return "max_epochs", f"{epochs:.2f} epochs, more than grid.max_epochs = {grid.max_epochs:g}"
    return None
