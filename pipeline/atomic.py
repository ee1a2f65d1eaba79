"""Files that are either whole or absent, whatever kills the writer."""

from __future__ import annotations

from pathlib import Path

from data.files import write_atomic


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` at once or not at all, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
