"""Short runs of the training loop itself on this machine: what a start, a step, an evaluation take.

As many processes train at once as slots will, each on the devices of a slot: busy cores slow each
other down, and a GPU is held by one rank or shared, as the study says. A gang's run is tried as one
of its ranks alone, which then holds the whole state; what ranks exchange is left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

from launch.config import ParallelConfig, RunConfig
from pipeline import seat
from pipeline.errors import StudyError
from pipeline.seat import Seat

SECONDS = 0.25
EVALUATED = 3
"""Steps from one evaluation to the next: the first of a run is a warm-up."""
LONGEST = 1000 * EVALUATED


@dataclass(frozen=True)
class Timing:
    """Seconds of a step, of evaluating as many tokens, and from nothing to the first step, with
    what the first takes longer (compiling, for one). Those that were not measured are guessed."""

    step: float
    evaluation: float
    start: float = 0.0
    is_measured: bool = True

    @classmethod
    def mean(cls, timings: Sequence[Timing]) -> Timing:
        """Of each; measured if all were."""
        return cls(
            step=fmean(timing.step for timing in timings),
            evaluation=fmean(timing.evaluation for timing in timings),
            start=fmean(timing.start for timing in timings),
            is_measured=all(timing.is_measured for timing in timings),
        )


class EnoughError(Exception):
    """All that was wanted is measured."""


class Stopwatch:
    """Told of every step and every batch of an evaluation, as ``launch.train.train`` tells them."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._began = clock, clock()
        self._step, self._last, self._setup = -1, 0.0, 0.0
        self._steps: list[float] = []
        self._evaluations: list[float] = []

    def __call__(self, step: int) -> None:
        now = self._clock()
        if self._step < 0:
            self._setup = now - self._began
        elif step == self._step:
            self._evaluations.append(now - self._last)
        else:
            self._steps.append(now - self._last)
        self._step, self._last = step, now
        if self._evaluations and sum(self._steps[1:] + self._evaluations) > SECONDS:
            raise EnoughError

    def read(self) -> Timing | None:
        """None if it was not told enough."""
        first, *others = self._steps or [0.0]
        if not (others and self._evaluations):
            return None
        step = fmean(others)
        return Timing(step, fmean(self._evaluations), self._setup + max(first - step, 0.0))


def alone(run: RunConfig) -> RunConfig:
    """``run`` as one of its ranks trains, for as long as is needed: with its rows, dtype and
    optimizer; nothing is saved, and a batch is judged now and then."""
    whole = run.parallel
    if whole.ranks > 1 or whole.offload:
        whole = ParallelConfig(threads=whole.threads, gpus_per_rank=whole.gpus_per_rank)
    rows = run.rank_micro_batch * run.accumulation
    train = {
        "steps": LONGEST,
        "evaluations": LONGEST // EVALUATED,
        "micro_batch_size": run.rank_micro_batch,
        "trunk": None,
        "checkpoint_every": None,
        "checkpoint_at": (),
    }
    changed = {
        "data": run.data.model_copy(update={"batch_size": rows, "eval_tokens": 1}),
        "train": run.train.model_copy(update=train),
        "parallel": whole,
    }
    return run.model_copy(update=changed)


def seats(parallel: ParallelConfig, slots: int, cores: int, gpus: Sequence[str]) -> list[Seat]:
    """Those of the ranks that will train on this machine at once."""
    threads, share = parallel.threads or 1, parallel.gpus_per_rank
    if not share:
        count = max(min(slots, cores) // threads, 1)
        return [Seat(None, threads, 1 / count)] * count
    on_each = max(int(1 / share), 1)
    return [Seat(gpu, threads, 1 / on_each) for gpu in gpus for _ in range(on_each)][:slots]


def seats_here(parallel: ParallelConfig, slots: int) -> list[Seat]:
    """The same on this machine, whose GPUs are named as ``CUDA_VISIBLE_DEVICES`` names them."""
    cores = len(os.sched_getaffinity(0))
    if not parallel.gpus_per_rank:
        return seats(parallel, slots, cores, [])
    import torch

    given, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    gpus = given.split(",")[:count] if given else [str(index) for index in range(count)]
    return seats(parallel, slots, cores, gpus)


def rounds(runs: Iterable[str], processes: int) -> list[str]:
    """All of them, some again, so that no process is idle while another measures."""
    once = list(runs)
    return list(islice(cycle(once), -(-len(once) // processes) * processes))


def measure(runs: Mapping[str, RunConfig], slots: int, log: Path) -> dict[str, Timing | None]:
    """A timing of each run by a warm process; None where a rank alone cannot hold the whole state.

    All have one dtype and shape of rank. What the processes print goes to ``log``.
    """
    one = next(iter(runs.values()))
    places = seats_here(one.parallel, slots)
    found: dict[str, list[Timing | None]] = {name: [] for name in runs}
    with _seated(places, log, one) as pool:
        tried = [
            (name, pool.submit(seat.attempt, runs[name])) for name in rounds(runs, len(places))
        ]
        for name, timing in tried:
            try:
                found[name].append(timing.result())
            except BrokenProcessPool:  # a process was ended for the memory that it took
                found[name].append(None)
    return {name: _mean(timings) for name, timings in found.items()}


def measured_peak(run: RunConfig, log: Path) -> float:
    """FLOP/s of matrix products in the run's dtype on one GPU of this machine, or one core.

    Raises:
        StudyError: no process can be started that computes there.
    """
    place = seats_here(run.parallel, 1)[0]
    with _seated([place], log) as pool:
        try:
            return pool.submit(seat.peak, run.train.dtype).result() / place.threads
        except BrokenProcessPool:
            raise StudyError(f"{log}: tells why no process could measure this machine") from None


@contextmanager
def _seated(
    places: Sequence[Seat], log: Path, first: RunConfig | None = None
) -> Iterator[ProcessPoolExecutor]:
    """A process on each seat, all ready at once, and warm by a ``first`` run."""
    context = get_context("spawn")
    free, ready = context.SimpleQueue(), context.Barrier(len(places))
    for place in places:
        free.put(place)
    log.parent.mkdir(parents=True, exist_ok=True)
    given = (free, ready, log, first)
    with ProcessPoolExecutor(len(places), context, seat.take, given) as pool:
        yield pool


def _mean(timings: Sequence[Timing | None]) -> Timing | None:
    whole = [timing for timing in timings if timing is not None]
    return Timing.mean(whole) if len(whole) == len(timings) else None
