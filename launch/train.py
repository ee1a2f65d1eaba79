"""The training loop, one for every architecture, objective and number of ranks:

    evaluate · checkpoint · step · log the step before

What a run does is a function of its RunConfig and its ranks alone.
"""

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from data.batch import Batch
from launch import device, schedule
from launch.assemble import assemble
from launch.checkpoint import Checkpoints
from launch.config import RunConfig
from launch.engine import Engine
from launch.journal import End
from launch.objective import Objective
from launch.optimizer import build_optimizer
from launch.parallel import shares
from launch.ranks import Ranks
from launch.reading import Reader, feed
from launch.record import Recorder
from launch.spikes import Spikes
from models import ModelConfig

Stop = Literal["preempted", "cancelled"]
STOPS: tuple[Stop, ...] = ("preempted", "cancelled")


class DivergedError(RuntimeError):
    """A loss or a gradient is not finite, and the weights are as they were before that step."""


@dataclass
class Step:
    """`loss` is the global mean; the gradient norm and what branches report may be on a GPU.
    `spike` is how far the loss stands out (`launch.spikes`)."""

    number: int
    loss: float
    learning_rate: float
    grad_norm: Tensor | float | None
    grad_norms: tuple[list[str], Tensor]
    reported: dict[str, Tensor]
    train_seconds: float
    spike: float | None


def train(
    config: RunConfig,
    folder: Path,
    ranks: Ranks,
    stop: Callable[[], Stop | None] = lambda: None,
    alive: Callable[[int], None] = lambda step: None,
) -> End:
    """Train to the end of the run, or to `stop`, from the run's last checkpoint if it has one.

    `alive` is told of every step and every batch of an evaluation.
    """
    run = Run(config, folder, ranks, alive)
    try:
        return run.to_the_end(stop)
    finally:
        run.close()


class Run:
    """A run's live parts, and its loop."""

    def __init__(
        self, config: RunConfig, folder: Path, ranks: Ranks, alive: Callable[[int], None]
    ) -> None:
        self.config, self.ranks, self.alive = config, ranks, alive
        settings = config.train
        shape = ModelConfig.from_dict(config.model)
        self.reader = Reader(config, shape, ranks)
        model = assemble(config, shape, ranks)
        torch.manual_seed(settings.seed + ranks.rank)
        self.objective = Objective(
            model, label_smoothing=settings.label_smoothing, z_loss=settings.z_loss
        )
        self.spikes = self.objective.spikes = Spikes()
        self.forward = device.Stopwatch(ranks.device)
        self.engine = Engine(
            self.objective,
            build_optimizer(model, settings.optimizer),
            shares(model, config, ranks),
            config,
            ranks,
        )
        self.checkpoints = Checkpoints(folder, config, ranks)
        self.recorder = Recorder(config, folder, ranks)
        self.evaluated = {
            settings.steps * (i + 1) // settings.evaluations for i in range(settings.evaluations)
        }
        self.batches: Generator[Batch] = self.reader.batches(0)
        self.pending: Step | None = None
        self.train_seconds = 0.0  # of all attempts, evaluations and checkpoints left out

    def to_the_end(self, stop: Callable[[], Stop | None]) -> End:
        resumed, self.train_seconds = self.checkpoints.restore(self.engine.state, print)
        self.recorder.begin(resumed, self.train_seconds, self.engine.stage)
        step = resumed or 0
        self.batches = self.reader.batches(step)
        while True:
            self.alive(step)
            if step != resumed:
                if step in self.evaluated:
                    self._evaluate(step)
                if self._checkpoint_due(step):
                    self._checkpoint(step)
            if step == self.config.train.steps:
                return self._end(step, "finished")
            wanted, is_written = self._agreed(stop())
            if is_written:
                self._commit()
            if wanted:
                self._checkpoint(step)
                return self._end(step, wanted, "stopped on request")
            try:
                done = self._step(step)
            except DivergedError as error:
                return self._end(step, "diverged", str(error))
            self._log_pending()
            self.pending, step = done, step + 1

    def _step(self, step: int) -> Step:
        start = time.perf_counter()
        config, ranks = self.config, self.ranks
        batch = next(self.batches)
        [weight] = ranks.sum(float(batch.weights_BT.sum()))
        factor = schedule.factor(config.train.schedule, step, config.train.steps)
        micro, spike = config.rank_micro_batch, None
        nats = torch.zeros((), dtype=torch.float64, device=ranks.device)
        reported: dict[str, Tensor] = {}
        watch = self._log_due(step + 1)
        for first in range(0, len(batch.tokens_BT), micro):
            with self.forward:
                losses = self.engine(*feed(batch, slice(first, first + micro), ranks.device))
            self.engine.backward(losses.objective(ranks.world * config.accumulation / weight))
            nats += losses.nats
            for name, value in losses.reported.items():
                reported[name] = reported.get(name, 0) + value / config.accumulation
            if first + micro == len(batch.tokens_BT):
                loss = ranks.sum(device.value(nats))[0] / weight
                if not math.isfinite(loss):
                    raise DivergedError(f"the loss of step {step + 1} is {loss}")
                spike = self.spikes.deviations(loss)
            skip = spike is not None and config.train.spikes == "skip"
            if not self.engine.update(factor, skip, watch):
                raise DivergedError(f"a gradient of step {step + 1} is not finite")
        if not skip:
            self.objective.model.rebalance(reported)
        self.train_seconds += time.perf_counter() - start
        rate = config.train.optimizer.learning_rate * factor
        norms = self.engine.grad_norm, self.engine.grad_norms
        return Step(step + 1, loss, rate, *norms, reported, self.train_seconds, spike)

    @torch.no_grad()
    def _evaluate(self, step: int) -> None:
        self._log_pending()
        self.objective.eval()
        scores = []
        for judge in self.reader.judges:
            nats = weight = 0.0
            for batch in self.reader.heldout(judge):
                losses = self.engine(*feed(batch, slice(None), self.ranks.device))
                nats += device.value(losses.nats)
                weight += float(batch.weights_BT.sum())
                self.alive(step)
            nats, weight = self.ranks.sum(nats, weight)
            scores.append((judge, nats / weight))
        self.objective.train()
        self.recorder.evaluation(step, scores)

    def _checkpoint_due(self, step: int) -> bool:
        settings = self.config.train
        every, last = settings.checkpoint_every, step == settings.steps
        is_due = every is not None and step > 0 and (step % every == 0 or last)
        return is_due or step in settings.checkpoint_at

    def _checkpoint(self, step: int) -> None:
        """Begin one; the loop goes on while it is written."""
        self._log_pending()
        self._commit()
        if step not in self.checkpoints.steps():
            self.checkpoints.begin(step, self.engine.state, self.train_seconds)

    def _commit(self) -> None:
        """The journal is on the disk first: a resumed run misses no line before its step."""
        if self.checkpoints.is_pending:
            self.recorder.sync()
            self.recorder.checkpoint(self.checkpoints.commit(self.alive))

    def _log_pending(self) -> None:
        """Write the step before, if its turn has come: what that waits for is computed by now."""
        done, self.pending = self.pending, None
        if done and done.spike is not None:
            skipped = self.config.train.spikes == "skip"
            self.recorder.spike(done.number, done.loss, done.spike, skipped)
        if done is None or not self._log_due(done.number):
            return
        names, norms = done.grad_norms
        self.recorder.health(done.number, dict(zip(names, norms.tolist(), strict=True)))
        self.recorder.stragglers(done.number, self.ranks.gather(self.forward.take()))
        names = sorted(done.reported)
        means = self.ranks.sum(*(float(done.reported[name].max()) for name in names))
        self.recorder.step(
            done.number,
            done.train_seconds,
            loss=done.loss,
            learning_rate=done.learning_rate,
            grad_norm=None if done.grad_norm is None else float(done.grad_norm),
            aux={name: total / self.ranks.world for name, total in zip(names, means, strict=True)},
        )

    def _log_due(self, step: int) -> bool:
        settings = self.config.train
        return step % settings.log_every == 0 or step == settings.steps

    def _agreed(self, wanted: Stop | None) -> tuple[Stop | None, bool]:
        """Any rank's wish to stop is everyone's; a checkpoint is written when all have written."""
        votes = (float(wanted == stop) for stop in STOPS)
        written, *votes_for = self.ranks.sum(float(self.checkpoints.is_written), *votes)
        stops = (stop for stop, vote in zip(STOPS, votes_for, strict=True) if vote)
        return next(stops, None), written == self.ranks.world

    def _end(
        self, step: int, status: Literal["finished", "diverged"] | Stop, reason: str = ""
    ) -> End:
        self._log_pending()
        self._commit()
        return self.recorder.end(step, status, reason, self.train_seconds)

    def close(self) -> None:
        self.batches.close()
        self.checkpoints.close()
        self.recorder.close()
        self.engine.close()
