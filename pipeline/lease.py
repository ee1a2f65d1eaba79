"""One leader per study: a lease in its folder, which asks no locks and no clock of a shared disk.

``leader-<epoch>.json`` is made exclusively and names who leads; the highest epoch does. Its holder
counts beats in it. Another process takes the next epoch when the holder has left, when its process
is known to be dead (same machine), or when its count stands still for ``PATIENCE`` seconds of the
watcher's own stopwatch; the clocks of two machines are never compared. A holder that finds a higher
epoch has lost the study: it stops, and its epoch fences whatever it would still write.
"""

from __future__ import annotations

import _thread
import getpass
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from launch.process import born
from pipeline.errors import BusyError, LostLeadError, StudyError

BEAT = 2.0
PATIENCE = 60.0
"""A client of NFS may show a directory as it was up to a minute ago."""


@dataclass(frozen=True)
class Leader:
    """Who leads; ``since`` is for people. ``machine`` names one boot and one space of pids."""

    user: str
    host: str
    machine: str
    pid: int
    born: str
    since: str
    beats: int = 0
    has_left: bool = False

    def __str__(self) -> str:
        return f"{self.user}@{self.host} pid {self.pid} since {self.since}"


class Lease:
    """The lead of one epoch, kept by a thread that counts beats."""

    def __init__(self, folder: Path, epoch: int, descriptor: int, leader: Leader) -> None:
        self.epoch = epoch
        self._folder, self._fd, self._leader = folder, descriptor, leader
        self._over = threading.Event()

    def check(self) -> None:
        """Raise `LostLeadError` if another process leads now."""
        if (newest := _newest(self._folder)) != self.epoch:
            other = _read(self._folder, newest)
            raise LostLeadError(
                f"{self._folder.name}: the lead was lost to {other or 'another process'}, "
                "to which this one seemed dead"
            )

    def keep(self, beat: float, on_loss: Callable[[], None]) -> None:
        """Count beats until `leave`, or until the lead is lost."""
        self._keeper = threading.Thread(target=self._count, args=(beat, on_loss), daemon=True)
        self._keeper.start()

    def leave(self) -> None:
        """Free the study for the next leader at once."""
        self._over.set()
        self._keeper.join()
        _tell(self._fd, replace(self._leader, has_left=True))
        os.close(self._fd)

    def _count(self, beat: float, on_loss: Callable[[], None]) -> None:
        beats = 0
        while not self._over.wait(beat):
            try:
                self.check()
            except LostLeadError:
                on_loss()
                return
            beats += 1
            _tell(self._fd, replace(self._leader, beats=beats))


@contextmanager
def leading(
    folder: Path,
    beat: float = BEAT,
    patience: float = PATIENCE,
    on_loss: Callable[[], None] = _thread.interrupt_main,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Lease]:
    """Lead the study in ``folder`` for the block; losing the lead interrupts it.

    ``say`` is told of a wait: whether a leader of another machine lives takes a while to tell.

    Raises:
        BusyError: another process leads it; the message says which.
        LostLeadError: another process took the lead, since this one seemed dead.
        StudyError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lease = _acquire(folder, beat, patience, say)
    except OSError as error:
        raise StudyError(f"output: {folder} cannot be written: {error.strerror}") from None
    lease.keep(beat, on_loss)
    try:
        yield lease
    except BaseException:
        lease.check()
        raise
    finally:
        lease.leave()


def leader(folder: Path) -> Leader | None:
    """Who leads the study, as far as its folder tells."""
    found = _read(folder, _newest(folder))
    return None if found is None or found.has_left or _is_dead_here(found) else found


class Lookout:
    """Who leads a study, for one who looks again and again: a leader whose count stands still for
    ``patience`` seconds of this one's own stopwatch leads no more."""

    def __init__(self, folder: Path, patience: float = PATIENCE) -> None:
        self._folder, self._patience = folder, patience
        self._last, self._since = leader(folder), time.monotonic()

    def leader(self) -> Leader | None:
        """Who leads now."""
        found = leader(self._folder)
        if found != self._last:
            self._last, self._since = found, time.monotonic()
        return found if time.monotonic() - self._since < self._patience else None


def _acquire(folder: Path, beat: float, patience: float, say: Callable[[str], None]) -> Lease:
    while True:
        epoch = _newest(folder)
        if epoch:
            _wait_for_death(folder, epoch, beat, patience, say)
        try:
            path = _path(folder, epoch + 1)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            continue
        me = _myself()
        _tell(descriptor, me)
        for old in range(epoch, 0, -1):
            if not _path(folder, old).is_file():
                break
            _path(folder, old).unlink(missing_ok=True)
        return Lease(folder, epoch + 1, descriptor, me)


def _wait_for_death(
    folder: Path, epoch: int, beat: float, patience: float, say: Callable[[str], None]
) -> None:
    """Return when nobody leads by ``epoch`` any more; raise `BusyError` if somebody does."""
    first = _read(folder, epoch)
    if first is not None and (first.has_left or _is_dead_here(first)):
        return
    if first is not None and first.machine == _machine():
        raise _busy(folder, first)
    say(f"{folder.name}: led by {first}; looking for {patience:g} s at most whether that one lives")
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        time.sleep(beat / 4)
        now = _read(folder, epoch)
        if now is not None and now.has_left:
            return
        if now is not None and now != first:
            raise _busy(folder, now)


def _busy(folder: Path, holder: Leader) -> BusyError:
    return BusyError(
        f"{folder.name}: already being run by {holder}; "
        "`isoflop status` shows how far it is, and `isoflop run --follow` waits for it"
    )


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"leader-{epoch}.json"


def _newest(folder: Path) -> int:
    """The highest epoch; a listing may be old, but a name that is looked up is not."""
    epochs = [path.stem.removeprefix("leader-") for path in folder.glob("leader-*.json")]
    newest = max([0, *(int(epoch) for epoch in epochs if epoch.isdigit())])
    while _path(folder, newest + 1).exists():
        newest += 1
    return newest


def _read(folder: Path, epoch: int) -> Leader | None:
    """The leader of ``epoch``; None while its line is being written, or if there is none."""
    try:
        return Leader(**json.loads(_path(folder, epoch).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _tell(descriptor: int, leader: Leader) -> None:
    """Write in place and in one piece: a reader elsewhere sees this file change, not another."""
    os.pwrite(descriptor, json.dumps(asdict(leader)).encode().ljust(1024) + b"\n", 0)
    os.fsync(descriptor)


def _myself() -> Leader:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    pid = os.getpid()
    return Leader(getpass.getuser(), socket.gethostname(), _machine(), pid, born(pid), since)


def _machine() -> str:
    """This boot of this machine, and its space of process numbers: containers have their own."""
    parts = [socket.gethostname()]
    if sys.platform == "linux":
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        parts += [boot, str(Path("/proc/self/ns/pid").readlink())]
    return " ".join(parts)


def _is_dead_here(holder: Leader) -> bool:
    """Whether the holder is a process of this machine that is no more."""
    return holder.machine == _machine() and born(holder.pid) != holder.born
