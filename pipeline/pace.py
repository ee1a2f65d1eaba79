"""What runs should take, from the timings of a few: interpolated by the FLOPs of a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from launch.config import RunConfig
from pipeline.gpus import SHARE_OF_PEAK
from pipeline.requirements import STATE_BYTES
from pipeline.runs import own_steps, run_flops, width
from pipeline.trial import Timing

HANDOVER_SECONDS = 0.1
"""Between two runs besides the building of the second's model: the end of the first, the driver's
turn, the way there; measured on two cores."""
FORWARD = 1 / 3
"""Of the time of a training step that its forward pass takes, which is all of an evaluation."""
COPY_SPEED, WRITE_SPEED = 4e9, 0.5e9
"""Bytes of a checkpoint a second: into the host's memory, while training waits (measured at 50M
parameters); and written, hashed and synced, which is waited for at the end of a run alone (as a
local disk takes it)."""


@dataclass(frozen=True)
class Pace:
    """Timings of steps of one architecture, by their FLOPs, ascending."""

    flops: list[float]
    timings: list[Timing]

    @classmethod
    def of(cls, measured: Iterable[tuple[float, Timing]]) -> Pace:
        """The mean where several steps have the same FLOPs."""
        by_flops: dict[float, list[Timing]] = {}
        for flops, timing in measured:
            by_flops.setdefault(flops, []).append(timing)
        sizes = sorted(by_flops)
        return cls(sizes, [Timing.mean(by_flops[size]) for size in sizes])

    def seconds_of(self, run: RunConfig) -> float:
        """Expected seconds that ``run`` holds its slot: start, steps, evaluations, checkpoints and
        hand-over; beyond the largest measured step, by its FLOPs."""
        flops = step_flops(run)
        beyond = max(flops / self.flops[-1], 1.0)
        step, evaluation = (self._at(flops, name) * beyond for name in ("step", "evaluation"))
        trained = own_steps(run) * step + _evaluated_steps(run) * evaluation
        return self._at(flops, "start") + trained + _saving(run) + HANDOVER_SECONDS

    def _at(self, flops: float, name: str) -> float:
        return float(np.interp(flops, self.flops, [getattr(each, name) for each in self.timings]))


def guessed(run: RunConfig, peak: float) -> Timing:
    """At a share of the ``peak`` of one device."""
    step = step_flops(run) / (SHARE_OF_PEAK * peak * width(run))
    return Timing(step, FORWARD * step, is_measured=False)


def step_flops(run: RunConfig) -> float:
    return run_flops(run) / run.train.steps


def spread(runs: Sequence[RunConfig], count: int) -> list[RunConfig]:
    """A few of the runs: of the smallest step, of the largest, and between them those that halve
    the widest gap, as wide as the FLOPs that are spent on steps in it."""
    by_step: dict[float, list[RunConfig]] = {}
    for run in runs:
        by_step.setdefault(step_flops(run), []).append(run)
    sizes = sorted(by_step)
    spent = [sum(map(run_flops, by_step[size])) for size in sizes]
    return [by_step[sizes[place]][0] for place in halved(spent, count)]


def halved(weights: Sequence[float], count: int) -> list[int]:
    """The first place, the last, and others that halve the heaviest gap between two chosen ones;
    ``count`` in all, or as many as there are."""
    chosen = sorted({0, len(weights) - 1})
    until = [0.0, *accumulate(weights)]
    while len(chosen) < min(count, len(weights)):
        gaps = [(until[right] - until[left + 1], left, right) for left, right in pairwise(chosen)]
        _, left, right = max(gap for gap in gaps if gap[2] - gap[1] > 1)
        middle = (until[left + 1] + until[right]) / 2
        inside = range(left + 1, right)
        half = min(inside, key=lambda i: abs((until[i] + until[i + 1]) / 2 - middle))
        chosen = sorted([*chosen, half])
    return chosen


def _saving(run: RunConfig) -> float:
    """Seconds that training stands still for checkpoints."""
    train, begun = run.train, run.train.trunk.step if run.train.trunk else 0
    size = run.cost.params.total * STATE_BYTES
    count = sum(step > begun for step in train.checkpoint_at)
    if train.checkpoint_every is None:
        return count * size / COPY_SPEED
    count += train.steps // train.checkpoint_every - begun // train.checkpoint_every
    return count * size / COPY_SPEED + size / WRITE_SPEED


def _evaluated_steps(run: RunConfig) -> float:
    """Steps that would take as many tokens as the run's own evaluations do."""
    train, count = run.train, run.train.evaluations
    begun = train.trunk.step if train.trunk else 0
    own = sum(train.steps * (mark + 1) // count > begun for mark in range(count))
    return own * (run.data.eval_tokens or _tokens_of(run.data.heldout)) / run.tokens_per_step


@cache
def _tokens_of(folder: Path) -> int:
    from data.mixture import Mixture

    return sum(part.store.n_tokens for part in Mixture.open(folder).parts)
