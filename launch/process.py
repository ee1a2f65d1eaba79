"""Which process a process number means: numbers are used again, and clocks are set."""

import sys
from pathlib import Path

import psutil


def born(pid: int) -> str:
    """When a living process started, by a clock that nobody sets; empty if there is none.

    A process that has ended and waits to be noticed by its parent does not live.
    """
    if sys.platform == "linux":
        try:
            state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if state in "ZX" else numbers[18]
    else:
        try:
            return str(psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return ""


def family(pid: int, birth: str) -> list[psutil.Process]:
    """The process that was born then and all that descend from it; none if it is no more."""
    if not birth or born(pid) != birth:
        return []
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
