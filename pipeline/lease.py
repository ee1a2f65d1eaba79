"""One leader per study: a lock on its folder, which the kernel drops when the holder dies."""

from __future__ import annotations

import fcntl
import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import BusyError, StudyError


@contextmanager
def leading(folder: Path) -> Iterator[None]:
    """Lead the study in ``folder`` for the block.

    Raises:
        BusyError: another process leads it; the message says which.
        StudyError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "leader.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StudyError(f"output: {folder} cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            leader = os.read(descriptor, 4096).decode(errors="replace").strip()
            raise BusyError(
                f"{folder.name}: already being run by {leader or 'another process'}; "
                "follow it with `isoflop status`"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor,
            f"{getpass.getuser()}@{socket.gethostname()} pid {os.getpid()}\n".encode(),
            0,
        )
        yield
    finally:
        os.close(descriptor)
