"""What the runs of a study share: how they are trained, laid out over ranks, and fitted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.strict import Count, Name, Positive, Strict


class TrainSettings(Strict):
    """What every run of the study shares."""

    sequence_length: Annotated[int, Field(ge=2)] = 128
    separate_documents: bool = Field(
        default=False,
        description="hide packed documents from each other",
        exclude_if=lambda given: not given,
    )
    packing: Literal["concatenate", "best-fit"] = Field(
        default="concatenate",
        description="the plain stream, or whole documents kept apart",
        exclude_if=lambda given: given == "concatenate",
    )
    dtype: Literal["fp32", "bf16"] = "fp32"
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt", "wsd"] = "cosine"
    final_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.9, 0.95], min_length=2, max_length=2
    )
    clip: Positive = 1.0
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    log_points: Annotated[int, Field(ge=2, description="journal entries over a run")] = 100
    evaluations: Count = 4
    eval_tokens: Annotated[int, Field(ge=2)] | None = None
    checkpoint_steps: Count | None = 1000
    micro_batch: Count | None = Field(
        default=None, description="sequences of one forward pass on a rank; null: no accumulation"
    )
    activation_checkpointing: bool = False
    retries: Annotated[int, Field(ge=0, le=100)] = 2


class Larger(Strict):
    """Settings of the runs of ``params`` parameters and more; what is null stays as it was."""

    params: Positive
    ranks: Count | None = None
    zero_stage: Literal[0, 1, 2, 3] | None = None
    expert_parallel: Count | None = None
    sequence_parallel: Count | None = None
    gpus_per_rank: Annotated[float, Field(ge=0)] | None = None


class ParallelSettings(Strict):
    """Ranks of every run, and how its state is sharded over them; other values for larger ones."""

    ranks: Annotated[int, Field(ge=1)] = 1
    zero_stage: Literal[0, 1, 2, 3] = 1
    expert_parallel: Count | None = Field(
        default=None, description="null: all ranks, for models with experts"
    )
    sequence_parallel: Count = Field(
        default=1, description="ranks that share each sequence, a slice of it each"
    )
    sequence_mode: Literal["ulysses", "ring"] = Field(
        default="ulysses", description="attention's heads shared by them, or keys passed around"
    )
    pipeline_parallel: Count = Field(default=1, description="1: not offered")
    gpus_per_rank: Annotated[float, Field(ge=0)] = 0.0
    larger: list[Larger] = Field([], max_length=16)

    def at(self, params: float) -> ParallelSettings:
        """The settings of a run of this size."""
        changes: dict[str, Any] = {"larger": []}
        for step in sorted(self.larger, key=lambda step: step.params):
            if params >= step.params:
                changes |= step.model_dump(exclude={"params"}, exclude_none=True)
        return self.model_copy(update=changes)

    @property
    def steps(self) -> list[ParallelSettings]:
        """All settings that a run may have."""
        return [self.at(0), *(self.at(step.params) for step in self.larger)]

    @model_validator(mode="after")
    def _one_kind_of_device(self) -> ParallelSettings:
        given = [settings.gpus_per_rank for settings in self.steps]
        if len({rate > 0 for rate in given}) > 1:
            listed = ", ".join(f"{rate:g}" for rate in given)
            raise ValueError(
                f"gpus_per_rank: given {listed}; allowed: GPUs for runs of all sizes, or for none"
            )
        return self


class FitSettings(Strict):
    """How the laws are fitted and how far they are asked."""

    baseline: Name | None = None
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    extrapolate: list[Positive] = Field([10.0, 100.0], max_length=16)
    seed: Annotated[int, Field(ge=0)] = 0
