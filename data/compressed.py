"""Plain, gzip and zstandard files as one kind of binary stream that says when it was cut short."""

import gzip
import io
import zlib
from pathlib import Path
from typing import IO

import zstandard

from data.corpus import MIB

# What reading a damaged or unreadable file raises.
DAMAGE = (OSError, EOFError, zlib.error, zstandard.ZstdError)


def open_file(path: str) -> IO[bytes]:
    """Open by suffix: `.gz`, `.zst`, or anything else as it is."""
    if path.endswith(".gz"):
        return io.BufferedReader(gzip.open(path), MIB)
    file = Path(path).open("rb")  # noqa: SIM115
    return io.BufferedReader(_Zstandard(file), MIB) if path.endswith(".zst") else file


class _Zstandard(io.RawIOBase):
    """`zstandard`'s own reader ends quietly where a frame is cut short; this one raises
    EOFError."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._ready = b""
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            data = self._frame.unused_data if self._frame and self._frame.eof else b""
            data = data or self._file.read(MIB // 8)
            if not data:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("the file ends within a zstandard frame")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = self._frame.decompress(data)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
