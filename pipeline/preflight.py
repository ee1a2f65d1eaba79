"""What a plan will take on this machine, measured before anything starts.

A short probe trains the smallest and the largest planned shape of each architecture for a few steps
on one core; a run's time is then interpolated between the two, linear in the FLOPs of a step.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.config import RunConfig
from pipeline.atomic import write_text
from pipeline.config import fingerprint
from pipeline.plan import Plan, run_flops

PROBE_SECONDS = 0.4


@dataclass(frozen=True)
class Pace:
    """Seconds of a step = ``overhead`` + ``per_flop`` × FLOPs of the step, for one architecture."""

    overhead: float
    per_flop: float

    def seconds(self, run: RunConfig) -> float:
        """Expected training seconds of ``run`` on one slot."""
        steps = run.train.steps
        return steps * self.overhead + run_flops(run) * self.per_flop


def expected_seconds(
    plan: Plan, cache: Path, progress: Callable[[str], None] = lambda _: None
) -> dict[str, float]:
    """Expected training seconds of every run by fingerprint; ``cache`` keeps the measurement."""
    key = fingerprint([run.fingerprint() for run in plan.runs])
    paces = _cached(cache, key)
    if paces is None:
        paces = {
            name: _measure(runs, progress) for name, runs in _by_architecture(plan.runs).items()
        }
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


def _measure(runs: list[RunConfig], progress: Callable[[str], None]) -> Pace:
    small, large = min(runs, key=_step_flops), max(runs, key=_step_flops)
    progress(str(small.labels["architecture"]))
    fast = _probe(small)
    if _step_flops(large) < 1.05 * _step_flops(small):
        return Pace(0.0, fast / _step_flops(small))
    per_flop = max((_probe(large) - fast) / (_step_flops(large) - _step_flops(small)), 0.0)
    return Pace(max(fast - per_flop * _step_flops(small), 0.0), per_flop)


def _probe(run: RunConfig) -> float:
    """Median seconds of a training step of ``run``'s model on one core, in plain PyTorch."""
    import torch

    from models import ModelConfig, build
    from models.loss import cross_entropy

    threads = torch.get_num_threads()
    torch.set_num_threads(run.parallel.threads or threads)
    try:
        config = ModelConfig.from_dict(run.model)
        model = build(config)
        model.init_weights(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        shape = (run.data.batch_size, run.data.sequence_length)
        tokens = torch.randint(config.vocab_size, shape)
        times: list[float] = []
        while len(times) < 4 or (sum(times) < PROBE_SECONDS and len(times) < 50):
            begin = time.perf_counter()
            output = model.run(tokens)
            torch.autograd.backward(cross_entropy(output.logits, tokens).total)
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
    return sorted(times[1:])[len(times[1:]) // 2]
