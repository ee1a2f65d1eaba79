"""From a loop's numbers to a journal's lines: cumulative tokens and FLOPs, speed and MFU."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from launch import device, health
from launch.checkpoint import Saved
from launch.config import RunConfig
from launch.journal import FILE, End, Journal, Status
from launch.ranks import Ranks
from launch.reading import Judge
from launch.system import SystemLoad

VERSIONED = ("torch", "deepspeed", "ray")


class Recorder:
    """Rank 0 writes; on the others every method does nothing."""

    def __init__(self, config: RunConfig, folder: Path, ranks: Ranks) -> None:
        self._config, self._ranks = config, ranks
        self._journal = Journal(folder / FILE) if ranks.rank == 0 else None
        self._peak = device.peak_flops(config.train.dtype, ranks.device, torch.get_num_threads())
        self._last = (0, 0.0)
        self._load = SystemLoad(ranks.device)
        device.forget_peak_memory(ranks.device)

    def begin(self, resumed_from: int | None, train_seconds: float, stage: int) -> None:
        self._last = (resumed_from or 0, train_seconds)
        if self._journal:
            self._journal.begin(
                resumed_from=resumed_from,
                world=self._ranks.world,
                zero_stage=stage,
                device=device.name(self._ranks.device),
                threads=torch.get_num_threads(),
                peak_flops=self._peak,
                versions={name: version(name) for name in VERSIONED},
                fingerprint=self._config.fingerprint(),
            )

    def step(self, step: int, train_seconds: float, **measured: Any) -> None:
        """`train_seconds` are those of all steps so far, evaluations and checkpoints left out."""
        last_step, last_seconds = self._last
        self._last = (step, train_seconds)
        tokens = (step - last_step) * self._config.tokens_per_step
        speed = tokens / (train_seconds - last_seconds)
        rate = speed * self._config.cost.training_flops_per_token
        mfu = rate / (self._peak * self._ranks.world)
        memory = device.peak_memory(self._ranks.device)
        if self._journal and (load := self._load.sample()):
            self._append("system", step, **load)
        self._write("step", step, **measured, tokens_per_second=speed, mfu=mfu, memory=memory)

    def health(self, step: int, grad_norms: dict[str, float]) -> None:
        """Gradient norms by layer, with a `flags` entry for each layer that stands out."""
        layers = health.by_layer(grad_norms)
        found = [flag._asdict() for flag in health.flags(layers)]
        self._append("health", step, grad_norm=layers, flags=found)

    def spike(self, step: int, loss: float, deviations: float, skipped: bool) -> None:
        self._append("spike", step, loss=loss, deviations=deviations, skipped=skipped)

    def stragglers(self, step: int, seconds: list[float]) -> None:
        """From every rank's own seconds."""
        if self._config.parallel.sequence_parallel > 1:
            return  # the ranks of a sequence wait for each other: none has a pace of its own
        for rank, ratio in health.stragglers(seconds).items():
            self._append("straggler", step, rank=rank, ratio=ratio)

    def evaluation(self, step: int, scores: Sequence[tuple[Judge, float]]) -> None:
        """The loss of a mixture is the mean of its parts' by their shares, which training draws in.

        Only a causal model's loss is a code length of the text: others have no bits per byte.
        """
        loss = sum(judge.share * nats for judge, nats in scores)
        stores = [(judge.share * nats, judge.heldout.store) for judge, nats in scores]
        bits = sum(nats * store.n_tokens / store.bytes / math.log(2) for nats, store in stores)
        is_causal = self._config.objective == "causal"
        names = {judge.name: nats for judge, nats in scores}
        parts = {"parts": names} if len(scores) > 1 else {}
        self._write("eval", step, loss=loss, bits_per_byte=bits if is_causal else None, **parts)

    def checkpoint(self, saved: Saved) -> None:
        self._append(
            "checkpoint",
            saved.step,
            path=str(saved.folder),
            bytes=saved.bytes,
            seconds=saved.seconds,
            blocked=saved.blocked,
        )

    def sync(self) -> None:
        """Wait until the disk has every line."""
        if self._journal:
            self._journal.sync()

    def end(self, step: int, status: Status, reason: str, train_seconds: float) -> End:
        end = End(step, time.time(), status, reason, train_seconds)
        if self._journal:
            self._journal.append({"kind": "end", **asdict(end)}, sync=True)
        return end

    def _write(self, kind: str, step: int, **values: Any) -> None:
        tokens = step * self._config.tokens_per_step
        flops = tokens * self._config.cost.training_flops_per_token
        self._append(kind, step, tokens=tokens, flops=flops, **values)

    def _append(self, kind: str, step: int, **values: Any) -> None:
        if self._journal:
            self._journal.append({"kind": kind, "step": step, **values})

    def close(self) -> None:
        if self._journal:
            self._journal.close()
