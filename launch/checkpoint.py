"""Checkpoints: fragments of named parameters in safetensors, committed at once or not at all.

A checkpoint is the folder `step-<n>`: one file per rank and a manifest with every file's size
and SHA-256. It is written under another name, synced, and renamed; a folder without a manifest
that holds is never used. Fragments carry their place in the whole parameter, so a file of any
world size, ZeRO stage and expert-parallel size loads into any other, and no pickle is read.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from data.files import sync
from launch.config import RunConfig
from launch.manifest import (
    DamagedCheckpointError,
    digest,
    read_manifest,
    verify,
    write_manifest,
)
from launch.pieces import BUFFER, RNG, Pieces
from launch.ranks import Ranks
from launch.zero_state import ZeroState

DIGEST = ".digest"
PATIENCE, SLOWEST = 600.0, 1e6
"""Seconds, and bytes a second, of a disk that is still taken to be at work."""


class CheckpointError(RuntimeError):
    """It could not be written; the one before it is still whole."""


@dataclass(frozen=True)
class Saved:
    """`seconds` from the snapshot to the commit, of which training stood still for `blocked`."""

    step: int
    folder: Path
    bytes: int
    seconds: float
    blocked: float


class Resumed(NamedTuple):
    """From which step, if from any, and the seconds that training took so far."""

    step: int | None = None
    train_seconds: float = 0.0


@dataclass
class _Draft:
    step: int
    folder: Path
    written: Future[None]
    optimizer_steps: int
    train_seconds: float
    patience: float
    began: float
    blocked: float


class Checkpoints:
    """The checkpoints of one run, loaded by runs of the same trajectory alone.

    Training waits for a copy of the state alone; a thread writes it. `begin` and `commit` are
    called by all ranks together, `commit` once every rank's `is_written`, or to wait for it.
    """

    def __init__(self, run: Path, config: RunConfig, ranks: Ranks) -> None:
        self.folder, self.identity = run / "checkpoints", config.trajectory()
        self._config, self._ranks = config, ranks
        # A process that another has taken over from, unknowingly, must not write into its drafts.
        self._own = ranks.from_first(time.time_ns() // 1_000_000)
        self._writer = ThreadPoolExecutor(1)
        self._draft: _Draft | None = None
        self._host: dict[str, Tensor] = {}

    @property
    def is_pending(self) -> bool:
        """Whether a checkpoint was begun and not committed: the same on all ranks."""
        return self._draft is not None

    @property
    def is_written(self) -> bool:
        """Whether this rank's part of it is on the disk."""
        return self._draft is not None and self._draft.written.done()

    def begin(self, step: int, state: ZeroState, train_seconds: float = 0.0) -> None:
        assert self._draft is None, "commit the checkpoint before this one first"
        began = time.perf_counter()
        tensors = self._copied(_tensors(state, self._ranks.rank, self._ranks.device))
        folder = self.folder / f"draft-{step}-{self._own}"
        written = self._writer.submit(_write, tensors, folder, self._ranks.rank)
        blocked = time.perf_counter() - began
        steps = state.optimizer_steps()
        patience = PATIENCE + sum(tensor.nbytes for tensor in tensors.values()) / SLOWEST
        self._draft = _Draft(step, folder, written, steps, train_seconds, patience, began, blocked)

    def _copied(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Into host memory that is kept from one checkpoint to the next: copying into fresh pages
        takes three times as long, and into pinned ones a GPU copies by itself."""
        for key, tensor in tensors.items():
            kept = self._host.get(key)
            if kept is None or kept.shape != tensor.shape:
                kept = torch.empty(
                    tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda
                )
            self._host[key] = kept.copy_(tensor, non_blocking=True)
        if self._ranks.device.type == "cuda":
            torch.cuda.synchronize(self._ranks.device)
        return {key: self._host[key] for key in tensors}

    def commit(self, alive: Callable[[int], None] = lambda step: None) -> Saved:
        """Make it the newest checkpoint; `alive` is told while a disk is waited for that may still
        be at it.

        Raises `CheckpointError` if it could not be written.
        """
        assert self._draft, "nothing was begun"
        draft, self._draft = self._draft, None
        waited = time.perf_counter()
        while self._ranks.sum(float(draft.written.done()))[0] < self._ranks.world:
            if time.perf_counter() - waited < draft.patience:
                alive(draft.step)
            wait([draft.written], timeout=1.0)
        draft.written.result()
        self._ranks.barrier()
        final = self.folder / f"step-{draft.step}"
        if self._ranks.rank == 0:
            with _told(draft.folder, "the manifest"):
                self._publish(draft, final)
        self._ranks.barrier()
        size = sum(file.stat().st_size for file in final.iterdir())
        now = time.perf_counter()
        return Saved(draft.step, final, size, now - draft.began, draft.blocked + now - waited)

    def _publish(self, draft: _Draft, final: Path) -> None:
        digests = sorted(draft.folder.glob(f"*{DIGEST}"))
        manifest = {
            "step": draft.step,
            "identity": self.identity,
            "world": self._ranks.world,
            "optimizer_steps": draft.optimizer_steps,
            "train_seconds": draft.train_seconds,
            "files": {path.stem: json.loads(path.read_text()) for path in digests},
        }
        for path in digests:
            path.unlink()
        write_manifest(draft.folder, manifest)
        shutil.rmtree(final, ignore_errors=True)
        draft.folder.rename(final)
        sync(self.folder)
        settings = self._config.train
        passing = [step for step in self.steps() if step not in settings.checkpoint_at]
        for old in passing[settings.keep_checkpoints :]:
            shutil.rmtree(self.folder / f"step-{old}")

    def close(self) -> None:
        self._writer.shutdown()

    def steps(self) -> list[int]:
        """Committed steps, newest first."""
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def restore(self, state: ZeroState, log: Callable[[str], None]) -> Resumed:
        """Load the newest checkpoint that is whole, or else the trunk's.

        Raises `DamagedCheckpointError` over a trunk that cannot be used.
        """
        chosen = self._ranks.from_first(self._choose(log) if self._ranks.rank == 0 else 0)
        trunk, is_own = self._config.train.trunk, chosen > 0
        if chosen == 0 and trunk is None:
            return Resumed()
        if chosen == 0 and trunk:
            chosen, folder = trunk.step, trunk.run / "checkpoints" / f"step-{trunk.step}"
            _verify_trunk(trunk.run, folder, self._config)
        else:
            folder = self.folder / f"step-{chosen}"
        manifest = read_manifest(folder)
        pieces = Pieces([folder / name for name in manifest["files"]])
        state.allocate(manifest["optimizer_steps"])
        for fragment in state.fragments():
            pieces.fill(fragment)
        for name, buffer in state.buffers.items():
            buffer.copy_(pieces.read(BUFFER, name))
        state.publish()
        if manifest["world"] == self._ranks.world:
            _set_rng(pieces, self._ranks.rank, self._ranks.device)
        return Resumed(chosen, manifest["train_seconds"] if is_own else 0.0)

    def _choose(self, log: Callable[[str], None]) -> int:
        for draft in self.folder.glob("draft-*"):
            log(f"removed the half-written checkpoint {draft}")
            shutil.rmtree(draft)
        for step in self.steps():
            try:
                verify(self.folder / f"step-{step}", self.identity)
            except DamagedCheckpointError as error:
                log(f"set a checkpoint aside: {error}")
                self._set_aside(step)
            else:
                return step
        return 0

    def _set_aside(self, step: int) -> None:
        """Out of the way of retention and of a new checkpoint of that step, but not destroyed."""
        aside = self.folder / f"rejected-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (self.folder / f"step-{step}").rename(aside)


def _verify_trunk(run: Path, folder: Path, branch: RunConfig) -> None:
    config = RunConfig.read(run / "config.json")
    if config.plateau() != branch.plateau():
        raise DamagedCheckpointError(
            f"train.trunk.run {run} differs from this run in more than steps and decay"
        )
    verify(folder, config.trajectory())


def _tensors(state: ZeroState, rank: int, device: torch.device) -> dict[str, Tensor]:
    """What this rank saves; views, which only once copied are safetensors' to write."""
    tensors = {
        f"{kind}:{fragment.start}:{fragment.name}": tensor
        for fragment in state.fragments()
        if fragment.writes
        for kind, tensor in fragment.tensors.items()
    }
    if rank == 0:
        tensors |= {f"{BUFFER}:0:{name}": buffer for name, buffer in state.buffers.items()}
    tensors[f"{RNG}:0:cpu-{rank}"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors[f"{RNG}:0:cuda-{rank}"] = torch.cuda.get_rng_state()
    return {key: tensor.detach() for key, tensor in tensors.items()}


def _write(tensors: dict[str, Tensor], folder: Path, rank: int) -> None:
    """One rank's file, on the disk when this returns, and its digest beside it."""
    path = folder / f"rank-{rank}.safetensors"
    with _told(path, f"its {sum(tensor.nbytes for tensor in tensors.values()):,} bytes"):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
        sync(path)
        path.with_suffix(path.suffix + DIGEST).write_text(json.dumps(digest(path)))


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {what} cannot be written: {error}") from error


def _set_rng(pieces: Pieces, rank: int, device: torch.device) -> None:
    torch.set_rng_state(pieces.read(RNG, f"cpu-{rank}"))
    if device.type == "cuda" and f"cuda-{rank}" in pieces.names(RNG):
        torch.cuda.set_rng_state(pieces.read(RNG, f"cuda-{rank}"))
