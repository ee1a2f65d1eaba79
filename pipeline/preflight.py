"""What a plan will take on this machine, measured before anything starts.

A short probe trains a few planned shapes of each architecture, from the smallest step to the
largest, as many at once as will run together, since busy cores slow each other down; the other
runs' steps are interpolated between them by their FLOPs.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from launch.config import RunConfig
from pipeline.atomic import write_text
from pipeline.config import fingerprint
from pipeline.plan import Plan
from pipeline.runs import run_flops

PROBES = 4
PROBE_SECONDS = 0.5


@dataclass(frozen=True)
class Pace:
    """Measured seconds of steps of one architecture, by their FLOPs, ascending."""

    flops: list[float]
    seconds: list[float]

    def of(self, run: RunConfig) -> float:
        """Expected training seconds of ``run`` on one slot."""
        step = float(np.interp(_step_flops(run), self.flops, self.seconds))
        return run.train.steps * step


def expected_seconds(plan: Plan, slots: int, cache: Path) -> dict[str, float]:
    """Expected training seconds of every run by fingerprint; ``cache`` keeps the measurement."""
    key = fingerprint([slots, *(run.fingerprint() for run in plan.runs)])
    paces = _cached(cache, key)
    if paces is None:
        paces = _measure(plan, slots)
        document = {"plan": key, "paces": {name: asdict(pace) for name, pace in paces.items()}}
        write_text(cache, json.dumps(document, indent=1) + "\n")
    return {run.fingerprint(): paces[str(run.labels["architecture"])].of(run) for run in plan.runs}


def makespan(seconds: Iterable[float], slots: int) -> float:
    """Wall seconds of independent runs on ``slots`` equal slots, the longest first."""
    free = [0.0] * slots
    for duration in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def _cached(cache: Path, key: str) -> dict[str, Pace] | None:
    try:
        document = json.loads(cache.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    if document.get("plan") != key:
        return None
    return {name: Pace(**pace) for name, pace in document["paces"].items()}


def _by_architecture(runs: Iterable[RunConfig]) -> dict[str, list[RunConfig]]:
    groups: dict[str, list[RunConfig]] = {}
    for run in runs:
        groups.setdefault(str(run.labels["architecture"]), []).append(run)
    return groups


def _step_flops(run: RunConfig) -> float:
    return run_flops(run) / run.train.steps


def _measure(plan: Plan, slots: int) -> dict[str, Pace]:
    probes = {name: _spread(runs) for name, runs in _by_architecture(plan.runs).items()}
    workers = max(slots // plan.runs[0].parallel.ranks, 1)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        times = pool.map(_probe, [run for runs in probes.values() for run in runs])
        return {
            name: Pace([_step_flops(run) for run in runs], list(islice(times, len(runs))))
            for name, runs in probes.items()
        }


def _spread(runs: list[RunConfig]) -> list[RunConfig]:
    """A few of the runs, evenly from the one of the smallest step to the one of the largest."""
    by_step = {_step_flops(run): run for run in runs}
    sizes = sorted(by_step)
    chosen = {round(share * (len(sizes) - 1)) for share in np.linspace(0, 1, PROBES)}
    return [by_step[sizes[position]] for position in sorted(chosen)]


def _probe(run: RunConfig) -> float:
    """Median seconds of a training step of ``run``'s model on its share of the machine."""
    import torch

    from models import ModelConfig, build
    from models.loss import cross_entropy

    torch.set_num_threads(run.parallel.threads or 1)
    device = torch.device("cuda" if run.parallel.gpus_per_rank else "cpu")
    config = ModelConfig.from_dict(run.model)
    with device:
        model = build(config)
        tokens = torch.randint(config.vocab_size, (run.rank_micro_batch, run.data.sequence_length))
    model.init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    times: list[float] = []
    while len(times) < 4 or (sum(times) < PROBE_SECONDS and len(times) < 50):
        begin = time.perf_counter()
        for _ in range(run.accumulation):
            torch.autograd.backward(cross_entropy(model.run(tokens).logits, tokens).total)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[len(times[1:]) // 2]
