"""What the runs of a study share: how they are trained, laid out over ranks, and fitted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from launch.conflicts import Layout
from pipeline.strict import Count, Name, Positive, Strict

Fraction = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]


class Optimization(Strict):
    """How a model is optimized: what architectures under one law may have each of their own."""

    optimizer: Literal["adamw", "muon", "adafactor"] = Field(
        default="adamw",
        description="Muon takes hidden matrices, AdamW the rest then; both at AdamW's rates",
        exclude_if=lambda given: given == "adamw",
    )
    momentum: Fraction = Field(
        default=0.95, description="Muon's", exclude_if=lambda given: given == 0.95
    )
    betas: list[Fraction] = Field(
        default=[0.9, 0.95],
        min_length=2,
        max_length=2,
        description="AdamW's averages of gradients and of their squares",
    )
    weight_decay: NotNegative = Field(default=0.1, description="decoupled, times the rate")
    clip: Positive = Field(default=1.0, description="largest norm of all gradients together")
    spikes: Literal["flag", "skip"] = Field(
        default="flag",
        description="count steps whose loss stands far above the last ones, or also leave their "
        "updates out",
        exclude_if=lambda given: given == "flag",
    )
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt", "wsd"] = Field(
        default="cosine", description="of the learning rate after warm-up; a ladder has its own"
    )
    final_fraction: Fraction = Field(
        default=0.05, description="of the peak rate, where cosine, linear and wsd end"
    )
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2,
        description="share of the steps over which wsd decays",
        exclude_if=lambda given: given == 0.2,
    )
    z_loss: NotNegative = Field(default=0.0, description="weight of the squared log partition")
    label_smoothing: Fraction = Field(
        default=0.0, description="in training; held-out losses are without it"
    )


class OwnTraining(Optimization):
    """What one architecture has of its own: the keys that are given. The others are the study's."""

    @model_serializer
    def given(self) -> dict[str, Any]:
        """The keys that are given, and no others."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set)}


class TrainSettings(Optimization):
    """How every run is trained, but for what an architecture has of its own."""

    sequence_length: Annotated[int, Field(ge=2)] = Field(default=128, description="tokens of a row")
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
    dtype: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of what is computed; masters and moments are fp32"
    )
    compile: bool = Field(
        default=False,
        description="compile each branch with torch.compile: minutes at the start, faster steps",
        exclude_if=lambda given: not given,
    )
    log_points: Annotated[int, Field(ge=2)] = Field(
        default=100, description="journal entries over a run"
    )
    evaluations: Count = Field(
        default=4, description="on held-out tokens, spread evenly over a run, the last at its end"
    )
    eval_tokens: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="held-out tokens of each evaluation; null: all"
    )
    checkpoint_steps: Count | None = Field(
        default=1000, description="steps from a checkpoint to the next; null: none"
    )
    keep_checkpoints: Count = Field(
        default=1,
        description="the latest so many are kept",
        exclude_if=lambda given: given == 1,
    )
    micro_batch: Count | None = Field(
        default=None, description="sequences of one forward pass on a rank; null: no accumulation"
    )
    activation_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass"
    )
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        default=2, description="how often a failed run is tried again"
    )

    def of(self, own: OwnTraining) -> TrainSettings:
        """With what an architecture has of its own."""
        return self.model_copy(update=own.given())


class Larger(Strict):
    """Settings of the runs of ``params`` parameters and more; what is null stays as it was."""

    params: Positive = Field(description="from so many parameters on, by the grid's convention")
    ranks: Count | None = Field(default=None, description="ranks of a run")
    zero_stage: Literal[0, 1, 2, 3] | None = Field(
        default=None, description="what ranks share of the state"
    )
    offload: bool | None = Field(
        default=None,
        description="keep the optimizer's state in the host's memory",
        exclude_if=lambda given: given is None,
    )
    expert_parallel: Count | None = Field(default=None, description="ranks that share experts")
    sequence_parallel: Count | None = Field(
        default=None, description="ranks that share each sequence"
    )
    gpus_per_rank: NotNegative | None = Field(default=None, description="GPUs of a rank")


class ParallelSettings(Strict):
    """Ranks of every run, and how its state is sharded over them; other values for larger ones."""

    ranks: Count = Field(default=1, description="processes that train one run together")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=1,
        description="what ranks share of the state: nothing, optimizer, gradients too, weights too",
    )
    offload: bool = Field(
        default=False,
        description="keep the optimizer's state in the host's memory (ZeRO 1 to 3)",
        exclude_if=lambda given: not given,
    )
    expert_parallel: Count | None = Field(
        default=None, description="ranks that share experts; null: all, for models with experts"
    )
    sequence_parallel: Count = Field(
        default=1, description="ranks that share each sequence, a slice of it each"
    )
    sequence_mode: Literal["ulysses", "ring"] = Field(
        default="ulysses", description="attention's heads shared by them, or keys passed around"
    )
    pipeline_parallel: Count = Field(default=1, description="1: not offered")
    gpus_per_rank: NotNegative = Field(
        default=0.0, description="GPUs of a rank: 1, a share of one, or 0 for a CPU core"
    )
    placement: Literal["pack", "spread"] = Field(
        default="pack",
        description="ranks on as few nodes as hold them, or over as many as there are",
        exclude_if=lambda given: given == "pack",
    )
    step_timeout: Positive = Field(
        default=600.0,
        description="seconds until a silent rank is ended",
        exclude_if=lambda given: given == 600.0,
    )
    larger: list[Larger] = Field(
        default=[], max_length=16, description="other settings for runs of more parameters"
    )

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

    def spread(self, has_experts: bool) -> int:
        """Ranks that share the experts of a model: all, if not said."""
        return (self.expert_parallel or self.ranks) if has_experts else 1

    def layout(self, train: TrainSettings, experts: tuple[int, ...]) -> Layout:
        """What has to be possible of runs that are trained like this."""
        return Layout.of(
            self,
            expert_parallel=self.spread(bool(experts)),
            experts=experts,
            optimizer=train.optimizer,
            compile=train.compile,
            sequence_length=train.sequence_length,
        )

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

    baseline: Name | None = Field(
        default=None,
        description="the architecture that others are compared with; null: dense, or the first",
    )
    resamples: Annotated[int, Field(ge=100, le=100_000)] = Field(
        default=1000, description="of the bootstrap that intervals come from"
    )
    extrapolate: list[Positive] = Field(
        default=[10.0, 100.0],
        max_length=16,
        description="factors beyond the largest run at which the laws are asked",
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of the bootstrap")
