"""What a plan will take on this machine, measured before anything starts.

Of each architecture a few planned runs are tried for a moment (``pipeline.trial``), from the
smallest step to the largest; what the others take follows from those (``pipeline.pace``). What
finished runs took counts as well. Where runs want GPUs and this machine has none, and where a rank
alone cannot hold what a gang shares, a share of the device's peak is all there is to go by.
"""

from __future__ import annotations

import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from launch.config import RunConfig
from launch.tail import read_tail
from pipeline import trial
from pipeline.atomic import write_text
from pipeline.config import Study, fingerprint
from pipeline.gpus import SHARE_OF_PEAK, UNKNOWN_FLOPS, Gpu
from pipeline.pace import FORWARD, Pace, guessed, spread
from pipeline.plan import Plan
from pipeline.runs import own_steps, run_folder
from pipeline.trial import Timing

PROBES = 6
START_SECONDS = 10.0
"""Until the first workers have started and imported what training needs."""


class Expected(NamedTuple):
    """Seconds of every run by fingerprint, and what they rest on, in words."""

    seconds: dict[str, float]
    basis: str


def can_measure(plan: Plan) -> bool:
    """Whether this machine has what the runs train on."""
    if not any(run.parallel.gpus_per_rank for run in plan.runs):
        return True
    import torch

    return torch.cuda.is_available()


def expected_seconds(study: Study, plan: Plan, slots: int, gpu: Gpu | None = None) -> Expected:
    """What every run should take; trials are kept and not repeated.

    ``gpu`` is what runs train on where this machine cannot tell.
    """
    groups = _by_architecture(plan.runs)
    measured = {name: _finished(study, runs) for name, runs in groups.items()}
    probes = {
        name: spread(runs, PROBES) for name, runs in groups.items() if len(measured[name]) < PROBES
    }
    is_here = can_measure(plan)
    if is_here:
        timings = _tried(study, [run for some in probes.values() for run in some], slots, gpu)
    else:
        peak = gpu.peak_flops if gpu else UNKNOWN_FLOPS / SHARE_OF_PEAK
        timings = {
            run.fingerprint(): guessed(run, peak) for some in probes.values() for run in some
        }
    for name, some in probes.items():
        measured[name] += [(run, timings[run.fingerprint()]) for run in some]
    paces = {name: Pace(found) for name, found in measured.items()}
    seconds = {
        run.fingerprint(): paces[name].seconds_of(run)
        for name, runs in groups.items()
        for run in runs
    }
    return Expected(seconds, _basis(plan, list(timings.values()), is_here))


def _basis(plan: Plan, timings: Sequence[Timing], is_here: bool) -> str:
    if not timings:
        return "from the runs that have finished, evaluations, checkpoints and hand-overs included"
    if not is_here:
        return (
            f"not measured, as this machine has no GPU: at {SHARE_OF_PEAK:.0%} of the peak of the "
            f"cluster's `gpu`, or {UNKNOWN_FLOPS:.0e} FLOP/s where its file names none known"
        )
    told = "from short runs on this machine, evaluations, checkpoints and hand-overs included"
    if any(run.parallel.ranks > 1 for run in plan.runs):
        told += ", what ranks exchange left out"
    if large := sum(not timing.is_measured for timing in timings):
        told += (
            f"; not measured: {large} of {len(timings)} sizes of a step, whose state no rank "
            f"alone can hold, at {SHARE_OF_PEAK:.0%} of the peak"
        )
    return told


def _tried(
    study: Study, runs: Sequence[RunConfig], slots: int, gpu: Gpu | None
) -> dict[str, Timing]:
    """The timing of each run by fingerprint, from ``preflight.json`` where that has it."""
    path, log = study.folder / "preflight.json", study.folder / "preflight.log"
    known, keys = _kept(path), {run.fingerprint(): _key(run, slots, gpu) for run in runs}
    kinds: dict[Any, dict[str, RunConfig]] = defaultdict(dict)
    for run in runs:
        if (key := keys[run.fingerprint()]) not in known:
            rank = run.parallel.threads, run.parallel.gpus_per_rank, run.train.dtype
            kinds[rank][key] = run
    for missing in kinds.values():
        found = trial.measure(missing, slots, log)
        peak = gpu.peak_flops if gpu else 0.0
        for key, timing in found.items():
            if timing is None:
                peak = peak or trial.measured_peak(missing[key], log)
                timing = guessed(missing[key], peak)
            known[key] = timing
        kept = {key: asdict(timing) for key, timing in known.items()}
        write_text(path, json.dumps(kept, indent=1) + "\n")
    return {name: known[key] for name, key in keys.items()}


def _kept(path: Path) -> dict[str, Timing]:
    try:
        return {str(key): Timing(**one) for key, one in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _key(run: RunConfig, slots: int, gpu: Gpu | None) -> str:
    """Changes with all that the timing depends on: what is trained, how, beside how many, where."""
    tried = trial.alone(run).model_dump(
        mode="json",
        exclude={
            "name": True,
            "labels": True,
            "cost": True,
            "data": {"train", "heldout", "seed"},
            "train": {"seed": True, "schedule": True, "optimizer": {"learning_rate"}},
            "parallel": {"step_timeout"},
        },
    )
    layout, at_once = run.parallel.model_dump(mode="json"), trial.seats_here(run.parallel, slots)
    where = [len(at_once), gpu and asdict(gpu), _machine(run.parallel.gpus_per_rank > 0)]
    return fingerprint([tried, layout, where])


@cache
def _machine(has_gpu: bool) -> list[str]:
    """What computes, and by which code."""
    found = [platform.node(), f"{len(os.sched_getaffinity(0))} cores"]
    found += [f"{name} {version(name)}" for name in ("torch", "deepspeed")]
    if has_gpu:
        import torch

        found += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def _finished(study: Study, runs: Sequence[RunConfig]) -> list[tuple[RunConfig, Timing]]:
    """The timing of a step of every run that has finished at its first attempt."""
    tails = [(run, read_tail(run_folder(study, run))) for run in runs]
    steps = [
        (run, tail.train_seconds / own_steps(run))
        for run, tail in tails
        if tail.status == "finished" and tail.attempts == 1 and tail.train_seconds
    ]
    return [(run, Timing(step, FORWARD * step)) for run, step in steps]


def _by_architecture(runs: Iterable[RunConfig]) -> dict[str, list[RunConfig]]:
    groups: dict[str, list[RunConfig]] = {}
    for run in runs:
        groups.setdefault(str(run.labels["architecture"]), []).append(run)
    return groups
