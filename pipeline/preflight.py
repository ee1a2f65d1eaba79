"""What a plan will take on this machine, measured before anything starts.

A short probe trains the smallest and the largest planned shape of each architecture for a few
steps, as many at once as will run together, since busy cores slow each other down; a run's time is
then interpolated between the two, linear in the FLOPs of a step.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from launch.config import RunConfig
from pipeline.atomic import write_text
from pipeline.config import fingerprint
from pipeline.plan import Plan, run_flops

PROBE_SECONDS = 0.8


@dataclass(frozen=True)
class Pace:
    """Seconds of a step = ``overhead`` + ``per_flop`` × FLOPs of the step, for one architecture."""

    overhead: float
    per_flop: float

    def seconds(self, run: RunConfig) -> float:
        """Expected training seconds of ``run`` on one slot."""
        steps = run.train.steps
        return steps * self.overhead + run_flops(run) * self.per_flop


def expected_seconds(plan: Plan, slots: int, cache: Path) -> dict[str, float]:
    """Expected training seconds of every run by fingerprint; ``cache`` keeps the measurement."""
    key = fingerprint([slots, *(run.fingerprint() for run in plan.runs)])
    paces = _cached(cache, key)
    if paces is None:
        paces = _measure(plan, slots)
        document = {"plan": key, "paces": {name: asdict(pace) for name, pace in paces.items()}}
        write_text(cache, json.dumps(document, indent=1) + "\n")
    return {
        run.fingerprint(): paces[str(run.labels["architecture"])].seconds(run) for run in plan.runs
    }


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
    groups = _by_architecture(plan.runs)
    ends = {
        name: (min(runs, key=_step_flops), max(runs, key=_step_flops))
        for name, runs in groups.items()
    }
    workers = max(slots // plan.runs[0].parallel.ranks, 1)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        times = list(pool.map(_probe, [run for pair in ends.values() for run in pair]))
    pairs = zip(times[::2], times[1::2], strict=True)
    return {
        name: _pace(small, large, fast, slow)
        for (name, (small, large)), (fast, slow) in zip(ends.items(), pairs, strict=True)
    }


def _pace(small: RunConfig, large: RunConfig, fast: float, slow: float) -> Pace:
    less, more = _step_flops(small), _step_flops(large)
    if more < 1.05 * less:
        return Pace(0.0, fast / less)
    per_flop = max((slow - fast) / (more - less), 0.0)
    return Pace(max(fast - per_flop * less, 0.0), per_flop)


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
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[len(times[1:]) // 2]
