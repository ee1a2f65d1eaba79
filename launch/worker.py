"""What runs in a rank's process: it joins its gang once, and then trains run after run."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.config import RunConfig
from launch.journal import End
from launch.ranks import LOOPBACK, Place, Ranks, open_store
from launch.watchdog import Watchdog

STOP_FILE = "stop"
"""Written into a run's folder, it asks every rank to stop; its text is the status to end with."""
STOP_SECONDS = 0.5


class RankError(RuntimeError):
    """What went wrong in a rank, in words: not every exception survives the way to the driver."""


class Worker:
    """Methods are called in order, one at a time, and in the process's main thread."""

    def __init__(self, address: Callable[[], str] = lambda: LOOPBACK) -> None:
        """`address` gives this node's, as its peers see it."""
        self._address = address
        self._store: Any = None

    def meet(self, *nodes: str) -> tuple[str, int]:
        """Rank 0 opens the store that all meet at, on loopback if all are on one node.

        `nodes` are all processes' (see `join`), this one's the first.
        """
        address = LOOPBACK if len(set(nodes)) == 1 else nodes[0]
        self._store, port = open_store(address, len(nodes))
        return address, port

    def node(self) -> str:
        """The address of the node that this process was placed on."""
        return self._address()

    def join(self, place: Place, meeting: tuple[str, int], *nodes: str) -> None:
        """Join the gang and import what training needs, so that the first run starts warm.

        `nodes` are all processes' in the order of their making, which `place.rank` is in: ranks of
        a node follow each other, for the sake of groups that exchange much.
        """
        place = replace(place, rank=rank_by_node(place.rank, nodes))
        own = LOOPBACK if meeting[0] == LOOPBACK else self._address()
        place = replace(place.at(*meeting), own=own)
        os.environ.update(place.environment())
        self._ranks = Ranks(place, self._store)
        import launch.train  # noqa: F401
        from launch.device import keep_pages

        keep_pages()

    def train(self, config_json: bytes, folder: str) -> End:
        from launch.train import train

        config = RunConfig.model_validate_json(config_json)
        run = Path(folder)
        rank = self._ranks.rank
        with (
            _output_to(run / f"rank-{rank}.log"),
            Watchdog(run, rank, self._ranks.world, config.parallel.step_timeout) as watchdog,
            StopRequest(run) as request,
        ):
            try:
                return train(config, run, self._ranks, request, watchdog.beat)
            except Exception as error:
                traceback.print_exc()
                raise RankError(f"{type(error).__name__}: {error}") from None


def rank_by_node(index: int, nodes: Sequence[str]) -> int:
    """The rank of the process made as number `index`: node by node, as each first appears."""
    first = [nodes.index(node) for node in nodes]
    return sorted(range(len(nodes)), key=lambda i: (first[i], i)).index(index)


def ask_to_stop(folder: Path, status: str) -> None:
    """Write the stop file at once: a rank may look at any moment."""
    draft = folder / f"{STOP_FILE}.draft"
    draft.write_text(status)
    draft.replace(folder / STOP_FILE)


class StopRequest:
    """Whether to stop: SIGTERM, as a preempted machine sends it, or the run's stop file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / STOP_FILE
        self._looked = 0.0
        self._wanted: str | None = None

    def __enter__(self) -> "StopRequest":
        self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _on_signal(self, *_: object) -> None:
        self._wanted = "preempted"

    def __call__(self) -> Any:
        now = time.monotonic()
        if self._wanted is None and now - self._looked > STOP_SECONDS:
            self._looked = now
            with contextlib.suppress(FileNotFoundError):
                self._wanted = self._path.read_text() or None
        return self._wanted


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send this process's output to a file: libraries print, and C++ does too."""
    with path.open("ab") as log:
        kept = [os.dup(stream) for stream in (1, 2)]
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, before in zip((1, 2), kept, strict=True):
                os.dup2(before, stream)
                os.close(before)
