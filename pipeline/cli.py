"""The command line, ``isoflop``. A heavy package is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

from pipeline.commands import clusters, housekeeping, laws, machine, models, reference, studies
from pipeline.commands.options import app

__all__ = [
    "app",
    "clusters",
    "housekeeping",
    "laws",
    "machine",
    "main",
    "models",
    "reference",
    "studies",
]
OURS = ("analysis", "data", "launch", "models", "pipeline")


def main() -> None:
    """The entry point: a user's mistake is one clear message and exit code 2, never a traceback.

    Exit code 3: another process leads the study; 4: another process took the lead of it.
    """
    try:
        app(standalone_mode=True)
    except Exception as error:
        if os.environ.get("ISOFLOP_DEBUG"):
            raise
        Console(stderr=True, highlight=False).print(_message(error), markup=False, soft_wrap=True)
        sys.exit(getattr(error, "exit_code", 2 if isinstance(error, ValueError | OSError) else 1))


def _message(error: Exception) -> str:
    """A mistake of the user as it is; anything else with its kind and the way to see more."""
    if isinstance(error, ValueError) and type(error).__module__.partition(".")[0] in OURS:
        return f"error: {error}"
    if isinstance(error, OSError) and error.filename:
        return f"error: {Path(str(error.filename))}: {error.strerror}"
    return f"error: {type(error).__name__}: {error} (run again with --debug for the traceback)"
