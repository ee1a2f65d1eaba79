"""A process of a trial (``pipeline.trial``): it takes a seat once, and then tries run after run."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.config import RunConfig

if TYPE_CHECKING:
    from pipeline.trial import Timing

JOIN_SECONDS = 300.0


@dataclass(frozen=True)
class Seat:
    """What a process computes on: a GPU, as CUDA names it, or threads; and its share of the memory
    of that GPU, or of the host."""

    gpu: str | None
    threads: int
    memory: float


_seat: Seat
_ranks: Any


def take(free: Any, ready: Any, log: Path, first: RunConfig | None = None) -> None:
    """Take a free seat, import what training needs, and wait for the others.

    ``first`` is tried for nothing: what the first run of a process makes it load or compute takes
    seconds, and the runs that follow it in a warm worker are spared that.
    """
    global _seat, _ranks
    _seat = free.get()
    if _seat.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = _seat.gpu
    _print_to(log)
    import launch.train  # noqa: F401
    from launch.device import keep_pages
    from launch.ranks import LOOPBACK, Place, Ranks, open_store

    store, _ = open_store(LOOPBACK, 1)
    _ranks = Ranks(Place(cuda=_seat.gpu is not None, threads=_seat.threads), store)
    keep_pages()
    if first:
        with suppress(Exception):  # which its own turn will raise
            attempt(first)
    ready.wait(JOIN_SECONDS)


def peak(dtype: str) -> float:
    """FLOP/s of matrix products here."""
    from launch.device import peak_flops

    return peak_flops(dtype, _ranks.device, _seat.threads)


def attempt(run: RunConfig) -> Timing | None:
    """Train until enough is measured; None if the seat has too little memory."""
    from pipeline.trial import EnoughError, Stopwatch, alone

    config = alone(run)
    if config.parallel != run.parallel and _needs(config) > _room():
        return None
    from launch.train import train

    watch = Stopwatch()
    with tempfile.TemporaryDirectory(prefix="isoflop-") as folder:
        try:
            train(config, Path(folder), _ranks, alive=watch)
        except EnoughError:
            pass
        except RuntimeError as error:
            if not _is_of_memory(error):
                raise
            _give_back()
    found, parts = watch.read(), run.parallel.sequence_parallel
    if found is None:
        return None
    return replace(found, step=found.step / parts, evaluation=found.evaluation / parts)


def _print_to(log: Path) -> None:
    """This process's output, C++'s too: libraries print."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)


def _is_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the host has no more; for the host torch has no class of its own."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _give_back() -> None:
    """Let go of what a run that did not come up leaves allocated."""
    import gc

    import torch

    gc.collect()
    if _seat.gpu is not None:
        torch.cuda.empty_cache()


def _needs(config: RunConfig) -> float:
    from pipeline.requirements import OVERHEAD, Setup, rank_bytes

    return rank_bytes(config.model, Setup.of(config)) + OVERHEAD


def _room() -> float:
    """Bytes that this process may have."""
    import psutil
    import torch

    if _seat.gpu is None:
        return float(psutil.virtual_memory().available) * _seat.memory
    return float(torch.cuda.get_device_properties(0).total_memory) * _seat.memory
