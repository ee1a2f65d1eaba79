"""Files that are either whole or absent: write beside, flush to disk, rename."""

import errno
import fcntl
import hashlib
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO

from data.errors import DataError, DiskFullError

BLOCK = 1 << 20


def sha256(*parts: str | bytes) -> str:
    """Hex digest of the parts, each preceded by its length so that no two lists collide."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes `path` if the block ends well and vanishes if not.

    A full disk becomes a `DataError` that names the folder; whatever was at `path` stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(path.parent):
            with temporary.open("wb", buffering=BLOCK) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    with atomic(path) as file:
        file.write(data)


def sync(path: Path) -> None:
    """Make a file, or the renames inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk or a refused write under `folder` into one clear sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(folder).free
            raise DiskFullError(
                f"the disk of {folder} is full, {free:,} bytes free: make space and run again "
                "(what is finished is kept)"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DataError(f"cannot write under {folder}: {error.strerror}") from error
        raise


def make_folder(folder: Path) -> Path:
    """Create `folder`; raise `DataError` if it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(f"cannot write under {folder}: permission denied")
    return folder


def require_space(folder: Path, needed: int) -> None:
    """Refuse before anything starts when `needed` bytes will not fit beside `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(f"{folder} needs about {needed:,} bytes and its disk has {free:,} free")


class _ReadOnly:
    """A file's descriptor, closed when nobody has it any more."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class Files:
    """Reads files by path, and keeps the latest ones open: as many as a quarter of the descriptors
    that the process may have."""

    def __init__(self) -> None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._open = lru_cache(1 << 16 if most == resource.RLIM_INFINITY else most // 4)(_ReadOnly)

    def read(self, path: str, offset: int, out: memoryview) -> int:
        """Fill `out` from this byte on; return how many bytes there were."""
        return os.preadv(self._open(path).number, [out], offset)

    def __reduce__(self) -> tuple[type["Files"], tuple[()]]:
        return type(self), ()  # another process opens its own


@contextmanager
def alone(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`; call `waiting` first if another process has it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
