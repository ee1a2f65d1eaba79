"""What DeepSpeed, NCCL or an optimizer cannot do: one table, asked of every run and every study."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class Layout:
    """All that the rules look at; `experts` are the different numbers of experts of the model, and
    `is_relayed` says whether a slice of a sequence waits for the one before."""

    ranks: int
    zero_stage: int
    expert_parallel: int
    gpus_per_rank: float
    optimizer: str
    experts: tuple[int, ...]
    offload: bool = False
    sequence_parallel: int = 1
    sequence_length: int = 0
    is_relayed: bool = False
    pipeline_parallel: int = 1
    compile: bool = False

    @classmethod
    def of(cls, parallel: object, **others: Any) -> Self:
        """What `parallel` has by the names of these fields, and `others`."""
        names = [field.name for field in fields(cls) if hasattr(parallel, field.name)]
        return cls(**{name: getattr(parallel, name) for name in names} | others)

    @property
    def undivided(self) -> int:
        """The first number of experts that the groups cannot share evenly."""
        return next((n for n in self.experts if n % self.expert_parallel), 0)

    @property
    def whole(self) -> bool:
        """No state is sharded: at stage 0, or on one rank, which has nothing to shard."""
        return self.zero_stage == 0 or (self.ranks == 1 and not self.offload)


@dataclass(frozen=True)
class Rule:
    """Refused where `when` holds; `told` says what was given and what is allowed."""

    when: Callable[[Layout], bool]
    told: str


RULES = (
    Rule(
        lambda it: it.expert_parallel > 1 and it.ranks % it.expert_parallel > 0,
        "parallel.expert_parallel is {0.expert_parallel}; "
        "allowed: a divisor of parallel.ranks, which is {0.ranks}",
    ),
    Rule(
        lambda it: it.expert_parallel > 1 and not it.experts,
        "parallel.expert_parallel is {0.expert_parallel}; "
        "allowed: 1, since the model has no experts",
    ),
    Rule(
        lambda it: it.expert_parallel > 1 and it.undivided > 0,
        "parallel.expert_parallel is {0.expert_parallel}; "
        "allowed: a divisor of the model's n_experts, which is {0.undivided}",
    ),
    Rule(
        lambda it: it.pipeline_parallel > 1,
        "parallel.pipeline_parallel is {0.pipeline_parallel}; allowed: 1, since DeepSpeed's "
        "pipelines exclude ZeRO 2 and 3 and expert parallelism; models too large for a rank: "
        "parallel.zero_stage 3 or parallel.expert_parallel, long sequences: "
        "parallel.sequence_parallel",
    ),
    Rule(
        lambda it: it.ranks % it.sequence_parallel > 0,
        "parallel.sequence_parallel is {0.sequence_parallel}; "
        "allowed: a divisor of parallel.ranks, which is {0.ranks}",
    ),
    Rule(
        lambda it: it.sequence_length % it.sequence_parallel > 0,
        "parallel.sequence_parallel is {0.sequence_parallel}; "
        "allowed: a divisor of the sequence length, which is {0.sequence_length}",
    ),
    Rule(
        lambda it: it.is_relayed and it.sequence_parallel > 1 and it.zero_stage > 1,
        "parallel.zero_stage is {0.zero_stage} with parallel.sequence_parallel "
        "{0.sequence_parallel} and a recurrence; allowed: 0, 1, since each rank waits for the "
        "state of the one before and ZeRO 2 and 3 have all of them meet in every layer",
    ),
    Rule(
        lambda it: it.compile and it.zero_stage == 3 and not it.whole,
        "parallel.zero_stage is 3 with train.compile; allowed: 0, 1, 2, since stage 3 gathers "
        "weights between the operations that would be fused",
    ),
    Rule(
        lambda it: it.compile and it.sequence_parallel > 1,
        "parallel.sequence_parallel is {0.sequence_parallel} with train.compile; allowed: 1, since "
        "ranks exchange keys or states between the operations that would be fused",
    ),
    Rule(
        lambda it: it.zero_stage == 3 and it.expert_parallel > 1,
        "parallel.zero_stage is 3 with parallel.expert_parallel {0.expert_parallel}; "
        "allowed with expert parallelism: 0, 1, 2",
    ),
    Rule(
        lambda it: it.optimizer != "adamw" and not it.whole,
        "parallel.zero_stage is {0.zero_stage} with parallel.ranks {0.ranks}, parallel.offload "
        "{0.offload} and the optimizer {0.optimizer}; allowed: 0 without offloading, since "
        "{0.optimizer} needs whole matrices and ZeRO shards them",
    ),
    Rule(
        lambda it: it.optimizer == "adafactor" and it.expert_parallel > 1,
        "parallel.expert_parallel is {0.expert_parallel} with the optimizer adafactor; allowed: 1, "
        "since it scales a step by the norm of all experts together",
    ),
    Rule(
        lambda it: it.offload and it.zero_stage == 0,
        "parallel.offload is true with parallel.zero_stage 0; allowed: false, or stages 1, 2, 3, "
        "which are what keeps the optimizer's state elsewhere",
    ),
    Rule(
        lambda it: it.gpus_per_rank > 1,
        "parallel.gpus_per_rank is {0.gpus_per_rank:g}; "
        "allowed: at most 1, since a rank computes on one GPU",
    ),
    Rule(
        lambda it: 0 < it.gpus_per_rank < 1 and it.ranks > 1,
        "parallel.gpus_per_rank is {0.gpus_per_rank:g} with parallel.ranks {0.ranks}; "
        "allowed with several ranks: 0 or 1, since NCCL refuses two ranks on one GPU",
    ),
)


def refuse_conflicts(layout: Layout) -> None:
    """Raise a `ValueError` over the first rule that the layout breaks."""
    for rule in RULES:
        if rule.when(layout):
            raise ValueError(rule.told.format(layout))


def expert_counts(model: object) -> tuple[int, ...]:
    """The different values under `n_experts`, at any depth of a tree of dicts and lists."""
    if isinstance(model, dict):
        own = {model["n_experts"]} if "n_experts" in model else set()
        return tuple(sorted(own.union(*map(expert_counts, model.values()))))
    if isinstance(model, list):
        return tuple(sorted(set[int]().union(*map(expert_counts, model))))
    return ()
