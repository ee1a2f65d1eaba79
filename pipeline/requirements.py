"""What runs need of a device and of a disk, told before anything starts: refused, or what would do.

Memory is what ``models.memory`` derives of the model; it leaves out the transient buffers of single
operations, for which, and for the process itself, ``OVERHEAD`` is kept free.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
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
    """All that memory on a rank depends on besides the model; ``devices`` are a rank's."""

    sequences: int
    sequence_length: int
    dtype: str
    zero_stage: int
    ranks: int
    expert_parallel: int
    checkpointing: bool
    sequence_parallel: int = 1
    offload: bool = False
    gpus_per_rank: float = 0.0
    devices: float = 1.0
    optimizer: str = "adamw"
    compile: bool = False
    is_relayed: bool = False

    @classmethod
    def of(cls, run: RunConfig) -> Setup:
        """A run's own."""
        parallel, train = run.parallel, run.train
        return cls(
            sequences=run.rank_micro_batch,
            sequence_length=run.data.sequence_length,
            dtype=train.dtype,
            zero_stage=parallel.zero_stage,
            ranks=parallel.ranks,
            expert_parallel=parallel.expert_parallel,
            checkpointing=train.activation_checkpointing,
            sequence_parallel=parallel.sequence_parallel,
            offload=parallel.offload,
            gpus_per_rank=parallel.gpus_per_rank,
            devices=parallel.gpus_per_rank or parallel.threads or 1,
            optimizer=train.optimizer.name,
            compile=train.compile,
            is_relayed=_is_relayed(run),
        )

    def change(self, **values: Any) -> Setup:
        """Another setup."""
        return Setup(**(vars(self) | values))

    def room(self, device_bytes: float) -> float:
        """Bytes that a rank has for training."""
        return device_bytes * self.devices - OVERHEAD

    def settings(self, before: Setup, params: int) -> str:
        """What makes this of ``before`` in a study, for runs of ``params`` parameters and more."""
        train = {
            "train.micro_batch": "sequences",
            "train.activation_checkpointing": "checkpointing",
        }
        shared = ("ranks", "zero_stage", "expert_parallel", "gpus_per_rank")
        told = [
            f"{name}={json.dumps(getattr(self, key))}"
            for name, key in train.items()
            if getattr(self, key) != getattr(before, key)
        ]
        if any(getattr(self, key) != getattr(before, key) for key in shared):
            step = {"params": params} | {key: getattr(self, key) for key in shared}
            listed = ", ".join(f"{key}: {value}" for key, value in step.items())
            told.append(f"{{{listed}}} as a step of parallel.larger")
        return " and ".join(told)


def _is_relayed(run: RunConfig) -> bool:
    if run.parallel.sequence_parallel == 1:
        return False
    from models import ModelConfig, slicing

    return slicing.is_relayed(ModelConfig.from_dict(run.model))


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
        offload=setup.offload and setup.gpus_per_rank > 0,
    ).total


def check_memory(runs: Iterable[RunConfig], device_bytes: float) -> float:
    """The most bytes that a rank of any run holds, all below its share of a device.

    Of runs that differ in their batch alone the one of the largest is looked at.

    Raises:
        StudyError: some cannot fit; it says which settings would let the largest.
    """
    most, faults = 0.0, list[str]()
    for run in _heaviest(runs):
        setup = Setup.of(run)
        room, needed = setup.room(device_bytes), rank_bytes(run.model, setup)
        most = max(most, needed)
        if needed > room:
            faults.append(f"{run.name}: {_gigabytes(needed)} a rank, {_gigabytes(room)} are free; ")
            faults[-1] += _proposal(run, device_bytes)
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


def _proposal(run: RunConfig, device_bytes: float) -> str:
    own = Setup.of(run)
    for setup in _others(own, expert_counts(run.model)):
        if rank_bytes(run.model, setup) <= setup.room(device_bytes):
            return f"it fits with {setup.settings(own, int(run.labels['params']))}"
    return "no setting of batch, ZeRO stage or up to 1,024 ranks makes it fit"


def _others(own: Setup, experts: tuple[int, ...]) -> Iterator[Setup]:
    """Cheaper setups, those that cost least speed first; ranks of a share of a GPU get a whole."""
    sparing = [own, own.change(sequences=1), own.change(sequences=1, checkpointing=True)]
    whole = {"gpus_per_rank": 1.0, "devices": 1.0} if 0 < own.gpus_per_rank < 1 else {}
    for ranks in (own.ranks * 2**n for n in range(11) if own.ranks * 2**n <= 1024):
        spreads = dict.fromkeys([own.expert_parallel, math.gcd(ranks, *experts) if experts else 1])
        devices = [{}, whole] if whole and ranks == own.ranks else [whole]
        for stage, spread, device in product(range(own.zero_stage, 4), spreads, devices):
            layout = {"ranks": ranks, "zero_stage": stage, "expert_parallel": spread}
            found = [setup.change(**layout, **device) for setup in sparing]
            yield from (setup for setup in found if _is_possible(setup, experts))


def _is_possible(setup: Setup, experts: tuple[int, ...]) -> bool:
    try:
        refuse_conflicts(Layout.of(setup, experts=experts))
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
