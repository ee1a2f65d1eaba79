"""What one training run is: a RunConfig, refused here if it cannot be run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from launch.conflicts import Layout, expert_counts, refuse_conflicts
from models import ModelConfig, RecipeError, slicing

PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]

ROW_BY_ROW = ("causal", "masked", "multi_token", "replaced_token")
"""Objectives that leave a row's tokens where they are, and so may keep documents apart."""


class Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """`batch_size` counts the sequences of one optimizer step over all ranks."""

    train: Path
    heldout: Path
    fingerprint: str
    sequence_length: PositiveInt
    batch_size: PositiveInt
    seed: NonNegativeInt = 0
    eval_tokens: PositiveInt | None = Field(
        None, description="held-out tokens per evaluation; null: all"
    )
    separate_documents: bool = False
    packing: Literal["concatenate", "best-fit"] = Field(
        "concatenate",
        description="the plain stream, or whole documents kept apart (data/packing.py)",
        exclude_if=lambda given: given == "concatenate",
    )
    unique_tokens: PositiveInt | None = Field(
        None,
        description="training tokens that may be seen, a random sample; null: all",
        exclude_if=lambda given: given is None,
    )


class OptimizerConfig(Section):
    """`betas` and `eps` are AdamW's, which Muon keeps for all but hidden matrices; `momentum` is
    Muon's; Adafactor takes the learning rate and the decay alone."""

    name: Literal["adamw", "muon", "adafactor"] = "adamw"
    learning_rate: PositiveFloat
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    momentum: Beta = 0.95
    weight_decay: NonNegativeFloat = 0.1


class ScheduleConfig(Section):
    """See `launch.schedule`; `decay_fraction` is the share of the steps that wsd decays over."""

    name: Literal["cosine", "linear", "constant", "inverse_sqrt", "wsd"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    final_fraction: Fraction = 0.1
    decay_fraction: Fraction = 0.2


class TrunkConfig(Section):
    """Start at `step` of the run in folder `run`, which it kept by `train.checkpoint_at`."""

    run: Path
    step: PositiveInt


class TrainConfig(Section):
    """`micro_batch_size` is the sequences of one forward pass on one rank (null: no accumulation).

    `evaluations` are spread evenly over the steps and include the last step.
    """

    steps: PositiveInt
    seed: NonNegativeInt = 0
    dtype: Literal["fp32", "bf16"] = "fp32"
    micro_batch_size: PositiveInt | None = None
    clip: PositiveFloat | None = 1.0
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig()
    spikes: Literal["flag", "skip"] = Field(
        "flag",
        description="count steps whose loss stands far above the last ones (launch/spikes.py), or "
        "also leave their updates out",
        exclude_if=lambda given: given == "flag",
    )
    z_loss: NonNegativeFloat = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    log_every: PositiveInt = 10
    evaluations: PositiveInt = 1
    checkpoint_every: PositiveInt | None = None
    checkpoint_at: tuple[PositiveInt, ...] = Field(
        (), description="steps whose checkpoints are always kept, for branches to start from"
    )
    keep_checkpoints: PositiveInt = 1
    trunk: TrunkConfig | None = None
    activation_checkpointing: bool = False
    compile: bool = Field(
        False,
        description="compile each branch with torch.compile: minutes at the start, faster steps",
        exclude_if=lambda given: not given,
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.schedule.warmup_steps > self.steps:
            raise ValueError(
                f"train.schedule.warmup_steps is {self.schedule.warmup_steps}; "
                f"allowed: at most train.steps, which is {self.steps}"
            )
        if self.evaluations > self.steps:
            raise ValueError(
                f"train.evaluations is {self.evaluations}; "
                f"allowed: at most train.steps, which is {self.steps}"
            )
        if self.trunk and self.trunk.step > decay_start(self.schedule, self.steps):
            raise ValueError(
                f"train.trunk.step is {self.trunk.step}; allowed: at most the step at which "
                f"train.schedule decays, which is {decay_start(self.schedule, self.steps)}"
            )
        return self


def decay_start(schedule: ScheduleConfig, steps: int) -> int:
    """The step at which the rate begins to fall: after warm-up, and for wsd the plateau too."""
    if schedule.name == "constant":
        return steps
    if schedule.name != "wsd":
        return schedule.warmup_steps
    return max(schedule.warmup_steps, steps - round(schedule.decay_fraction * steps))


class ParallelConfig(Section):
    ranks: PositiveInt = 1
    zero_stage: Literal[0, 1, 2, 3] = 1
    expert_parallel: PositiveInt = 1
    offload: bool = Field(
        False,
        description="keep the optimizer's state in the host's memory (ZeRO 1 to 3)",
        exclude_if=lambda given: not given,
    )
    sequence_parallel: PositiveInt = Field(
        1,
        description="ranks that share each sequence, a slice of it each",
        exclude_if=lambda given: given == 1,
    )
    sequence_mode: Literal["ulysses", "ring"] = Field(
        "ulysses",
        description="how attention sees other slices: its heads shared by the ranks, or keys and "
        "values passed around",
        exclude_if=lambda given: given == "ulysses",
    )
    pipeline_parallel: PositiveInt = Field(
        1, description="1: not offered (launch/conflicts.py)", exclude_if=lambda given: given == 1
    )
    threads: PositiveInt | None = Field(None, description="CPU threads per rank; null: its share")
    gpus_per_rank: NonNegativeFloat = 0.0
    placement: Literal["pack", "spread"] = Field(
        "pack",
        description="ranks on as few nodes as they fit on, or on as many as there are",
        exclude_if=lambda given: given == "pack",
    )
    step_timeout: PositiveFloat = Field(600.0, description="seconds until a silent rank is ended")

    @property
    def readers(self) -> int:
        """Ranks, or groups of ranks, that read sequences of their own."""
        return self.ranks // self.sequence_parallel


class ParamsConfig(Section):
    total: PositiveInt
    active: PositiveInt
    non_embedding: NonNegativeInt
    compute: PositiveInt


class CostConfig(Section):
    """What the planner derived from the model; `training_flops_per_token` is exact, ×3 included."""

    params: ParamsConfig
    training_flops_per_token: PositiveFloat


class RunConfig(Section):
    name: Name
    model: dict[str, Any] = Field(description="ModelConfig.to_dict()")
    data: DataConfig
    train: TrainConfig
    parallel: ParallelConfig = ParallelConfig()
    cost: CostConfig
    labels: dict[str, str | int | float] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=1) + "\n")

    @property
    def objective(self) -> str:
        """What the model is trained on, as its recipe says."""
        given = self.model.get("recipe", {}).get("objective", "causal")
        return str(given["type"] if isinstance(given, dict) else given)

    @property
    def tokens_per_step(self) -> int:
        return self.data.batch_size * self.data.sequence_length

    @property
    def rank_micro_batch(self) -> int:
        return self.train.micro_batch_size or self.data.batch_size // self.parallel.readers

    @property
    def accumulation(self) -> int:
        return self.data.batch_size // (self.parallel.readers * self.rank_micro_batch)

    def fingerprint(self) -> str:
        """SHA-256 over what changes the result: not names, paths, labels, cadences or threads."""
        return self._digest(parallel={"threads", "gpus_per_rank", "placement", "step_timeout"})

    def trajectory(self) -> str:
        """The fingerprint without the parallel layout: runs that may share checkpoints."""
        return self._digest(parallel=True)

    def plateau(self) -> str:
        """The fingerprint of the steps before any decay: what a trunk and its branches share."""
        length = {"steps", "evaluations", "trunk"}
        decay = {"schedule": {"name", "final_fraction", "decay_fraction"}}
        return self._digest(parallel=True, train=dict.fromkeys(length, True) | decay)

    def _digest(self, parallel: Any, train: Mapping[str, Any] = MappingProxyType({})) -> str:
        identity = self.model_dump(
            mode="json",
            exclude={
                "name": True,
                "labels": True,
                "cost": True,
                "data": {"train", "heldout"},
                "train": {
                    "log_every": True,
                    "checkpoint_every": True,
                    "checkpoint_at": True,
                    "keep_checkpoints": True,
                    "activation_checkpointing": True,
                    "compile": True,
                    "trunk": {"run"},
                    **train,
                },
                "parallel": parallel,
            },
        )
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @model_validator(mode="after")
    def _rows_are_whole(self) -> Self:
        data = self.data
        if self.objective not in ROW_BY_ROW and (
            data.separate_documents or data.packing != "concatenate"
        ):
            raise ValueError(
                f"data.separate_documents is {data.separate_documents} and data.packing "
                f"{data.packing} with the objective {self.objective}; allowed: False and "
                "concatenate, since it hides and cuts whole rows"
            )
        return self

    @model_validator(mode="after")
    def _possible(self) -> Self:
        parallel, train = self.parallel, self.train
        refuse_conflicts(
            Layout.of(
                parallel,
                optimizer=train.optimizer.name,
                compile=train.compile,
                experts=expert_counts(self.model),
                sequence_length=self.data.sequence_length,
                is_relayed=self._check_slices(),
            )
        )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        batch, parallel = self.data.batch_size, self.parallel
        readers, shared = parallel.readers, ""
        if parallel.sequence_parallel > 1:
            shared = f" over parallel.sequence_parallel, which is {parallel.sequence_parallel}"
        if batch % readers:
            raise ValueError(
                f"data.batch_size is {batch}; allowed: a multiple of {readers}, since "
                f"parallel.ranks is {parallel.ranks}{shared}"
            )
        micro = self.train.micro_batch_size
        if micro is not None and batch // readers % micro:
            raise ValueError(
                f"train.micro_batch_size is {micro}; allowed: a divisor of the {batch // readers} "
                f"sequences that each of the {parallel.ranks} ranks{shared} takes of "
                f"data.batch_size {batch}"
            )
        return self

    def _check_slices(self) -> bool:
        """Whether the model's slices wait for each other; ValueError if it cannot be cut."""
        size, mode = self.parallel.sequence_parallel, self.parallel.sequence_mode
        if size == 1:
            return False
        model = ModelConfig.from_dict(self.model)
        try:
            slicing.check(model, size, mode)
        except RecipeError as error:
            raise ValueError(
                f"parallel.sequence_parallel is {size} ({mode}): model.recipe.{error}"
            ) from None
        return slicing.is_relayed(model)
