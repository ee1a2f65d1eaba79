"""What runs should take, from the timings of a few."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


class Pace:
    """What an architecture's steps cost on a rank: so many seconds each, by token and layer (what
    is done to each element) and by FLOP (matrix products), as fits the timings of some runs best,
    none of them negative; and how far those are off, interpolated by the FLOPs. Widths differ by
    tens of percent in what their matrix products reach, so that no formula of their size fits."""

    def __init__(self, measured: Sequence[tuple[RunConfig, Timing]]) -> None:
        from scipy.optimize import nnls

        loads_NF = np.array([_load(run) for run, _ in measured])
        steps_N = np.array([timing.step for _, timing in measured])
        self._costs_F, _ = nnls(loads_NF / steps_N[:, None], np.ones(len(steps_N)))
        found: dict[float, list[tuple[float, float, float]]] = {}
        for (run, timing), fitted in zip(measured, loads_NF @ self._costs_F, strict=True):
            told = timing.step / fitted, timing.evaluation / timing.step, timing.start
            found.setdefault(math.log(rank_flops(run)), []).append(told)
        self._flops = sorted(found)
        self._known = np.array([np.mean(found[flops], axis=0) for flops in self._flops]).T

    def seconds_of(self, run: RunConfig) -> float:
        """Expected seconds that ``run`` holds its slot: start, steps, evaluations, checkpoints and
        hand-over."""
        flops = math.log(rank_flops(run))
        ratio, evaluation, start = (np.interp(flops, self._flops, known) for known in self._known)
        steps = own_steps(run) + _evaluated_steps(run) * float(evaluation)
        trained = steps * float(ratio * (_load(run) @ self._costs_F))
        return float(start) + trained + _saving(run) + HANDOVER_SECONDS


def _load(run: RunConfig) -> np.ndarray:
    """What the seconds of a step go by on each rank (3,): one, tokens times layers, FLOPs."""
    tokens = run.tokens_per_step / run.parallel.ranks
    return np.array([1.0, tokens * run.model.get("n_layers", 1), rank_flops(run)])


def guessed(run: RunConfig, peak: float) -> Timing:
    """At a share of the ``peak`` of one device."""
    share = width(run) / run.parallel.ranks
    step = rank_flops(run) / (SHARE_OF_PEAK * peak * share)
    return Timing(step, FORWARD * step, is_measured=False)


def rank_flops(run: RunConfig) -> float:
    """Of a training step on each rank."""
    return run_flops(run) / run.train.steps / run.parallel.ranks


def spread(runs: Sequence[RunConfig], count: int) -> list[RunConfig]:
    """A few of the runs: of the smallest step, of the largest, and between them those that halve
    the widest gap, as wide as the number of steps in it."""
    by_step: dict[float, list[RunConfig]] = {}
    for run in runs:
        by_step.setdefault(rank_flops(run), []).append(run)
    sizes = sorted(by_step)
    steps = [sum(map(own_steps, by_step[size])) for size in sizes]
    return [by_step[sizes[place]][0] for place in halved(steps, count)]


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
