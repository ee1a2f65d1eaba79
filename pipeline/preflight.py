"""What a plan will take on this machine, measured before anything starts.

A short probe trains a few planned shapes of each architecture, from the smallest step to the
largest, as many at once as will run together, since busy cores slow each other down; the other
runs' steps are interpolated between them by their FLOPs. What finished runs took counts as well.
Where runs want GPUs and this machine has none, a share of the GPU's peak is all there is to go by.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from launch.config import RunConfig
from launch.tail import read_tail
from pipeline.atomic import write_text
from pipeline.config import Study, fingerprint
from pipeline.gpus import SHARE_OF_PEAK, UNKNOWN_FLOPS, Gpu
from pipeline.plan import Plan
from pipeline.runs import own_steps, run_flops, run_folder, width

PROBES = 4
PROBE_SECONDS = 0.5
START_SECONDS = 10.0
"""Until the first workers have started and imported what training needs."""
HANDOVER_SECONDS = 0.5
"""From one run's last step to the next one's first, its model built; measured on two cores."""
FORWARD = 1 / 3
"""Of the time of a training step that its forward pass takes, which is all of an evaluation."""


@dataclass(frozen=True)
class Pace:
    """Measured seconds of steps of one architecture, by their FLOPs, ascending."""

    flops: list[float]
    seconds: list[float]

    @classmethod
    def of(cls, measured: Iterable[tuple[float, float]]) -> Pace:
        """From (FLOPs, seconds) of steps, the mean where several have the same FLOPs."""
        by_flops: dict[float, list[float]] = {}
        for flops, seconds in measured:
            by_flops.setdefault(flops, []).append(seconds)
        sizes = sorted(by_flops)
        return cls(sizes, [float(np.mean(by_flops[size])) for size in sizes])

    def seconds_of(self, run: RunConfig) -> float:
        """Expected seconds that ``run`` holds its slot: its steps, evaluations and hand-over;
        beyond the largest measured step, by its FLOPs."""
        flops = _step_flops(run)
        step = float(np.interp(flops, self.flops, self.seconds)) * max(flops / self.flops[-1], 1.0)
        return (own_steps(run) + FORWARD * _evaluated_steps(run)) * step + HANDOVER_SECONDS


def can_measure(plan: Plan) -> bool:
    """Whether this machine has what the runs train on."""
    if not any(run.parallel.gpus_per_rank for run in plan.runs):
        return True
    import torch

    return torch.cuda.is_available()


def basis(plan: Plan) -> str:
    """What the expected seconds rest on, in words."""
    if can_measure(plan):
        return "from a short measurement of this machine, evaluations and hand-overs included"
    return (
        f"not measured, as this machine has no GPU: at {SHARE_OF_PEAK:.0%} of the peak of the "
        f"cluster's `gpu`, or {UNKNOWN_FLOPS:.0e} FLOP/s where its file names none known"
    )


def expected_seconds(
    study: Study, plan: Plan, slots: int, gpu: Gpu | None = None
) -> dict[str, float]:
    """Expected seconds of every run by fingerprint; probes are kept and not repeated.

    ``gpu`` is what runs train on where this machine cannot tell.
    """
    path = study.folder / "preflight.json"
    known, groups = _cached(path), _by_architecture(plan.runs)
    measured = {name: _finished(study, runs) for name, runs in groups.items()}
    probes = {
        name: {_key(run, slots): run for run in _spread(runs)}
        for name, runs in groups.items()
        if len(measured[name]) < PROBES
    }
    if not can_measure(plan):
        rate = SHARE_OF_PEAK * gpu.peak_flops if gpu else UNKNOWN_FLOPS
        for name, some in probes.items():
            measured[name] += [
                (_step_flops(run), _step_flops(run) / (rate * width(run))) for run in some.values()
            ]
        probes = {}
    missing = {k: run for some in probes.values() for k, run in some.items() if k not in known}
    if missing:
        known |= _measure(missing, slots)
        write_text(path, json.dumps(known, indent=1) + "\n")
    for name, some in probes.items():
        measured[name] += [(_step_flops(run), known[key]) for key, run in some.items()]
    paces = {name: Pace.of(found) for name, found in measured.items()}
    return {
        run.fingerprint(): paces[name].seconds_of(run)
        for name, runs in groups.items()
        for run in runs
    }


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


def _finished(study: Study, runs: Sequence[RunConfig]) -> list[tuple[float, float]]:
    """FLOPs and seconds of a step of every run that has finished at its first attempt."""
    tails = [(run, read_tail(run_folder(study, run))) for run in runs]
    return [
        (_step_flops(run), tail.train_seconds / own_steps(run))
        for run, tail in tails
        if tail.status == "finished" and tail.attempts == 1 and tail.train_seconds
    ]


def _cached(path: Path) -> dict[str, float]:
    try:
        return {str(key): float(value) for key, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError):
        return {}


def _key(run: RunConfig, slots: int) -> str:
    """Changes with all that the duration of a step depends on."""
    model, data, train = run.model, run.data, run.train
    layout = run.parallel.model_dump(mode="json")
    sizes = [run.rank_micro_batch, run.accumulation, data.sequence_length, train.dtype, slots]
    return fingerprint([model, layout, sizes])


def _by_architecture(runs: Iterable[RunConfig]) -> dict[str, list[RunConfig]]:
    groups: dict[str, list[RunConfig]] = {}
    for run in runs:
        groups.setdefault(str(run.labels["architecture"]), []).append(run)
    return groups


def _step_flops(run: RunConfig) -> float:
    return run_flops(run) / run.train.steps


def _measure(probes: dict[str, RunConfig], slots: int) -> dict[str, float]:
    ranks = max(run.parallel.ranks for run in probes.values())
    here = min(slots, len(os.sched_getaffinity(0)))  # a cluster's other slots are elsewhere
    with ProcessPoolExecutor(max(here // ranks, 1), get_context("spawn")) as pool:
        return dict(zip(probes, pool.map(_probe, probes.values()), strict=True))


def _spread(runs: list[RunConfig]) -> list[RunConfig]:
    """A few of the runs, evenly from the one of the smallest step to the one of the largest."""
    by_step = {_step_flops(run): run for run in runs}
    sizes = sorted(by_step)
    chosen = {round(share * (len(sizes) - 1)) for share in np.linspace(0, 1, PROBES)}
    return [by_step[sizes[position]] for position in sorted(chosen)]


def _probe(run: RunConfig) -> float:
    """Median seconds of a training step of ``run``'s model on its share of the machine; of whole
    sequences, of which ranks that share them do equal parts."""
    import torch

    from launch.device import keep_pages
    from models import ModelConfig, build
    from models.training import blank, losses

    keep_pages()
    torch.set_num_threads(run.parallel.threads or 1)
    device = torch.device("cuda" if run.parallel.gpus_per_rank else "cpu")
    with device:
        model = build(ModelConfig.from_dict(run.model))
    given = blank(model, run.rank_micro_batch, run.data.sequence_length)
    model.init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    times: list[float] = []
    while len(times) < 4 or (sum(times) < PROBE_SECONDS and len(times) < 50):
        begin = time.perf_counter()
        for _ in range(run.accumulation):
            torch.autograd.backward(losses(model, **given).total)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[len(times[1:]) // 2] / run.parallel.sequence_parallel
