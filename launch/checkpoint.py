"""Checkpoints: fragments of named parameters in safetensors, committed at once or not at all.

A checkpoint is the folder `step-<n>`: one file per rank and a manifest with every file's size
and SHA-256. It is written under another name, synced, and renamed; a folder without a manifest
that holds is never used. Fragments carry their place in the whole parameter, so a file of any
world size, ZeRO stage and expert-parallel size loads into any other, and no pickle is read.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from launch.config import RunConfig
from launch.ranks import Ranks
from launch.zero_state import Fragment, ZeroState

MANIFEST = "manifest.json"
DIGEST = ".digest"
RNG, BUFFER = "rng", "buffer"
"""Keys in a file are `<kind>:<start>:<name>`; besides a fragment's own kinds there are these."""


class CheckpointError(RuntimeError):
    """It could not be written; the one before it is still whole."""


class DamagedCheckpointError(ValueError):
    """A file of the checkpoint is missing, short, or has another hash than was written."""


@dataclass(frozen=True)
class Saved:
    """`seconds` from the snapshot to the commit, of which training stood still for `blocked`."""

    step: int
    folder: Path
    bytes: int
    seconds: float
    blocked: float


@dataclass
class _Draft:
    step: int
    written: Future[None]
    optimizer_steps: int
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

    def begin(self, step: int, state: ZeroState) -> None:
        assert self._draft is None, "commit the checkpoint before this one first"
        began = time.perf_counter()
        tensors = self._copied(_tensors(state, self._ranks.rank))
        folder = self.folder / f"draft-{step}"
        written = self._writer.submit(_write, tensors, folder, self._ranks.rank)
        blocked = time.perf_counter() - began
        self._draft = _Draft(step, written, state.optimizer_steps(), began, blocked)

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

    def commit(self) -> Saved:
        """Make it the newest checkpoint. Raises `CheckpointError` if it could not be written."""
        assert self._draft, "nothing was begun"
        draft, self._draft = self._draft, None
        waited = time.perf_counter()
        draft.written.result()
        self._ranks.barrier()
        final = self.folder / f"step-{draft.step}"
        if self._ranks.rank == 0:
            self._publish(self.folder / f"draft-{draft.step}", final, draft)
        self._ranks.barrier()
        size = sum(file.stat().st_size for file in final.iterdir())
        now = time.perf_counter()
        return Saved(draft.step, final, size, now - draft.began, draft.blocked + now - waited)

    def _publish(self, folder: Path, final: Path, draft: _Draft) -> None:
        digests = sorted(folder.glob(f"*{DIGEST}"))
        manifest = {
            "step": draft.step,
            "identity": self.identity,
            "world": self._ranks.world,
            "optimizer_steps": draft.optimizer_steps,
            "files": {path.stem: json.loads(path.read_text()) for path in digests},
        }
        for path in digests:
            path.unlink()
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _sync(folder / MANIFEST)
        _sync(folder)
        shutil.rmtree(final, ignore_errors=True)
        folder.rename(final)
        _sync(self.folder)
        settings = self._config.train
        passing = [step for step in self.steps() if step not in settings.checkpoint_at]
        for old in passing[settings.keep_checkpoints :]:
            shutil.rmtree(self.folder / f"step-{old}")

    def close(self) -> None:
        self._writer.shutdown()

    def steps(self) -> list[int]:
        """Committed steps, newest first."""
        names = (path.name for path in self.folder.glob("step-*"))
        return sorted((int(name.removeprefix("step-")) for name in names), reverse=True)

    def restore(self, state: ZeroState, log: Callable[[str], None]) -> int | None:
        """Load the newest checkpoint that is whole, or else the trunk's; return its step.

        None without either. Raises `DamagedCheckpointError` over a trunk that cannot be used.
        """
        chosen = self._ranks.from_first(self._choose(log) if self._ranks.rank == 0 else 0)
        trunk = self._config.train.trunk
        if chosen == 0 and trunk is None:
            return None
        if chosen == 0 and trunk:
            chosen, folder = trunk.step, trunk.run / "checkpoints" / f"step-{trunk.step}"
            _verify_trunk(trunk.run, folder, self._config)
        else:
            folder = self.folder / f"step-{chosen}"
        manifest = json.loads((folder / MANIFEST).read_text())
        pieces = Pieces([folder / name for name in manifest["files"]])
        state.allocate(manifest["optimizer_steps"])
        for fragment in state.fragments():
            pieces.fill(fragment)
        for name, buffer in state.buffers.items():
            buffer.copy_(pieces.read(BUFFER, name))
        state.publish()
        if manifest["world"] == self._ranks.world:
            _set_rng(pieces, self._ranks.rank)
        return chosen

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


class Pieces:
    """The intervals that a checkpoint's files hold, by kind and parameter."""

    def __init__(self, paths: list[Path]) -> None:
        self._files: list[Any] = [safe_open(path, framework="pt") for path in paths]
        self._index: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        for number, file in enumerate(self._files):
            for key in file.keys():  # noqa: SIM118 (not a dict)
                kind, start, name = key.split(":", 2)
                self._index.setdefault((kind, name), []).append((int(start), number, key))

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self._index}

    def names(self, kind: str) -> list[str]:
        return [name for of, name in self._index if of == kind]

    def read(self, kind: str, name: str) -> Tensor:
        """All of it, in one file."""
        [(_, number, key)] = self._index[kind, name]
        tensor: Tensor = self._files[number].get_tensor(key)
        return tensor

    def fill(self, fragment: Fragment) -> None:
        for kind, target in fragment.tensors.items():
            filled = sum(self._copy(kind, fragment, target))
            if filled != target.numel():
                raise DamagedCheckpointError(
                    f"{kind} of {fragment.name}: {filled} of {target.numel()} elements are there"
                )

    def _copy(self, kind: str, fragment: Fragment, target: Tensor) -> Iterator[int]:
        for start, number, key in self._index.get((kind, fragment.name), []):
            piece = self._files[number].get_slice(key)
            low = max(start, fragment.start)
            high = min(start + piece.get_shape()[0], fragment.start + target.numel())
            if low < high:
                target[low - fragment.start : high - fragment.start] = piece[
                    low - start : high - start
                ]
                yield high - low


def _verify_trunk(run: Path, folder: Path, branch: RunConfig) -> None:
    config = RunConfig.read(run / "config.json")
    if config.plateau() != branch.plateau():
        raise DamagedCheckpointError(
            f"train.trunk.run {run} differs from this run in more than steps and decay"
        )
    verify(folder, config.trajectory())


def verify(folder: Path, identity: str) -> dict[str, Any]:
    """Read every file of a checkpoint against its manifest, and return the manifest."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{folder / MANIFEST} cannot be read: {error}") from error
    if manifest["identity"] != identity:
        raise DamagedCheckpointError(f"{folder} belongs to a run with another configuration")
    for name, written in manifest["files"].items():
        path = folder / name
        if not path.is_file() or _digest(path) != written:
            raise DamagedCheckpointError(f"{path} is not what was written")
    return manifest


def _tensors(state: ZeroState, rank: int) -> dict[str, Tensor]:
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
    if torch.cuda.is_available():
        tensors[f"{RNG}:0:cuda-{rank}"] = torch.cuda.get_rng_state()
    return {key: tensor.detach() for key, tensor in tensors.items()}


def _write(tensors: dict[str, Tensor], folder: Path, rank: int) -> None:
    """One rank's file, on the disk when this returns, and its digest beside it."""
    path = folder / f"rank-{rank}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
        _sync(path)
        path.with_suffix(path.suffix + DIGEST).write_text(json.dumps(_digest(path)))
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise CheckpointError(f"{path}: its {size:,} bytes cannot be written: {error}") from error


def _set_rng(pieces: Pieces, rank: int) -> None:
    torch.set_rng_state(pieces.read(RNG, f"cpu-{rank}"))
    if f"cuda-{rank}" in pieces.names(RNG) and torch.cuda.is_available():
        torch.cuda.set_rng_state(pieces.read(RNG, f"cuda-{rank}"))


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
