"""What runs need of a device and of a disk, told before anything starts: refused, or what would do.

Memory is what ``models.memory`` derives of the model; it leaves out the transient buffers of single
operations, for which, and for the process itself, ``OVERHEAD`` is kept free.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.config import RunConfig
from launch.conflicts import Layout, expert_counts, refuse_conflicts
from pipeline.errors import StudyError
from pipeline.plan import Plan
from pipeline.runs import run_tokens

if TYPE_CHECKING:
    from data.loader import Exposure

OVERHEAD = 0.75e9
"""Bytes of a process that trains nothing yet: libraries, and on a GPU its context."""
STATE_BYTES = 12
"""Of a parameter in a checkpoint: fp32 weight and AdamW's two moments."""


@dataclass(frozen=True)
class Setup:
    """All that memory on a rank depends on besides the model."""

    sequences: int
    sequence_length: int
    dtype: str
    zero_stage: int
    ranks: int
    expert_parallel: int
    checkpointing: bool
    sequence_parallel: int = 1

    @classmethod
    def of(cls, run: RunConfig) -> Setup:
        """A run's own."""
        return cls(
            sequences=run.rank_micro_batch,
            sequence_length=run.data.sequence_length,
            dtype=run.train.dtype,
            zero_stage=run.parallel.zero_stage,
            ranks=run.parallel.ranks,
            expert_parallel=run.parallel.expert_parallel,
            checkpointing=run.train.activation_checkpointing,
            sequence_parallel=run.parallel.sequence_parallel,
        )

    def change(self, **values: Any) -> Setup:
        """Another setup."""
        return Setup(**(vars(self) | values))

    def settings(self, before: Setup) -> str:
        """Overrides of a study that make this of ``before``."""
        names = {
            "checkpointing": "train.activation_checkpointing",
            "sequences": "train.micro_batch",
            "zero_stage": "parallel.zero_stage",
            "ranks": "parallel.ranks",
        }
        changed = [key for key in names if getattr(self, key) != getattr(before, key)]
        return " ".join(f"{names[key]}={str(getattr(self, key)).lower()}" for key in changed)


def rank_bytes(model: dict[str, Any], setup: Setup) -> int:
    """Bytes that one rank holds in a training step."""
    return _rank_bytes(json.dumps(model, sort_keys=True), setup)


@lru_cache(maxsize=4096)
def _rank_bytes(model: str, setup: Setup) -> int:
    import torch

    from models import ModelConfig
    from models.memory import training_memory

    return training_memory(
        ModelConfig.from_dict(json.loads(model)),
        batch_size=setup.sequences,
        sequence_length=setup.sequence_length // setup.sequence_parallel,
        dtype=torch.bfloat16 if setup.dtype == "bf16" else torch.float32,
        zero=setup.zero_stage,
        world=setup.ranks,
        expert_parallel=setup.expert_parallel,
        checkpointing=setup.checkpointing,
    ).total


def check_memory(runs: Iterable[RunConfig], device_bytes: float) -> float:
    """The most bytes that a rank of any run holds, all below its share of a device.

    Of runs that differ in their batch alone the one of the largest is looked at.

    Raises:
        StudyError: some cannot fit; it says which settings would let the largest.
    """
    most, faults = 0.0, list[str]()
    for run in _heaviest(runs):
        room = device_bytes * (run.parallel.gpus_per_rank or run.parallel.threads or 1) - OVERHEAD
        needed = rank_bytes(run.model, Setup.of(run))
        most = max(most, needed)
        if needed > room:
            faults.append(f"{run.name}: {_gigabytes(needed)} a rank, {_gigabytes(room)} are free; ")
            faults[-1] += _proposal(run, room)
    if faults:
        listed = "\n".join(faults[:3] + ([f"and {len(faults) - 3} more"] if faults[3:] else []))
        raise StudyError(f"runs do not fit into memory:\n{listed}")
    return most


def _heaviest(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """Those that no other run of their recipe and layout exceeds in width, depth and sequences."""
    families: dict[str, dict[tuple[int, int, int], RunConfig]] = {}
    for run in runs:
        layout = run.parallel.model_dump_json()
        key = json.dumps([run.model["recipe"], layout, run.train.activation_checkpointing])
        size = (run.model["width"], run.model["n_layers"], run.rank_micro_batch)
        families.setdefault(key, {}).setdefault(size, run)
    found = [run for sizes in families.values() for run in _front(sizes)]
    return sorted(found, key=lambda run: -run.cost.params.total)


def _front(sizes: dict[tuple[int, int, int], RunConfig]) -> Iterator[RunConfig]:
    for size, run in sizes.items():
        above = (other for other in sizes if other != size)
        if not any(all(a >= b for a, b in zip(other, size, strict=True)) for other in above):
            yield run


def _proposal(run: RunConfig, room: float) -> str:
    own = Setup.of(run)
    for setup in _others(own, expert_counts(run.model)):
        if rank_bytes(run.model, setup) <= room:
            return f"it fits with {setup.settings(own)}"
    return "no setting of batch, ZeRO stage or up to 1,024 ranks makes it fit"


def _others(own: Setup, experts: tuple[int, ...]) -> Iterator[Setup]:
    """Cheaper setups, those that cost least speed first."""
    sparing = [own, own.change(sequences=1), own.change(sequences=1, checkpointing=True)]
    for ranks in (own.ranks * 2**n for n in range(11)):
        for stage in range(max(own.zero_stage, 1), 4):
            for setup in sparing:
                spread = min(ranks, *experts) if experts and stage < 3 else 1
                other = setup.change(ranks=ranks, zero_stage=stage, expert_parallel=spread)
                if ranks <= 1024 and _is_possible(other, experts):
                    yield other


def _is_possible(setup: Setup, experts: tuple[int, ...]) -> bool:
    try:
        refuse_conflicts(
            Layout(
                ranks=setup.ranks,
                zero_stage=setup.zero_stage,
                expert_parallel=setup.expert_parallel,
                gpus_per_rank=0,
                optimizer="adamw",
                experts=experts,
                sequence_parallel=setup.sequence_parallel,
                sequence_length=setup.sequence_length,
            )
        )
    except ValueError:
        return False
    return True


def checkpoint_bytes(runs: Sequence[RunConfig]) -> float:
    """Bytes on disk of the checkpoints that these runs keep, and of one more that is written."""
    each = [run.cost.params.total * STATE_BYTES * _kept(run) for run in runs]
    return sum(each) + max((run.cost.params.total * STATE_BYTES for run in runs), default=0)


def _kept(run: RunConfig) -> int:
    settings = run.train
    passing = settings.keep_checkpoints if settings.checkpoint_every is not None else 0
    return passing + len(settings.checkpoint_at)


def check_disk(folder: Path, needed: float) -> float:
    """Free bytes where ``folder`` is or will be.

    Raises:
        StudyError: fewer than ``needed``.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = float(shutil.disk_usage(there).free)
    if needed > free:
        raise StudyError(
            f"output: {folder} has {_gigabytes(free)} free and the checkpoints of these runs need "
            f"{_gigabytes(needed)}; allowed: a larger disk, fewer or smaller runs, or "
            "train.checkpoint_steps=null"
        )
    return free


def exposures(plan: Plan) -> tuple[Exposure, ...]:
    """What the longest run sees of each source of a mixture; nothing of a single corpus."""
    from data.loader import Loader
    from data.mixture import Mixture

    mixture = Mixture.open(plan.tokens.train)
    if len(mixture.parts) < 2:
        return ()
    run = max(plan.runs, key=run_tokens)
    loader = Loader(mixture, run.data.sequence_length, run.data.batch_size, run.data.seed)
    return loader.exposures(run.train.steps)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
