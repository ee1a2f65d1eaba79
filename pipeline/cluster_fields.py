"""What the values of a cluster's file may be; most end in a shell, a URL or a manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from pipeline.gpus import gpu

SIGNAL_SECONDS = 120
"""So long before its time limit a job of Slurm is told to save its state."""
SHORTEST_SECONDS = 600
SCRATCH_LETTERS = 24
"""Ray keeps sockets in it, whose paths may have 107 letters in all."""


def folder(given: str) -> str:
    """``given`` as a folder that any machine may have; ValueError if it is none."""
    if not given.startswith("/") or ".." in Path(given).parts or not given.isprintable():
        raise ValueError(f"given {given!r}, allowed: an absolute path without '..'")
    return given.rstrip("/") or "/"


def _url(given: str) -> str:
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ValueError(f"given {given!r}, allowed: such as http://127.0.0.1:8265")
    return given.rstrip("/")


def _printable(given: str) -> str:
    if not given.isprintable():
        raise ValueError(f"given {given!r}, allowed: one line of printable text")
    return given


def _shaped(pattern: str, allowed: str) -> AfterValidator:
    """Text that ``pattern`` matches as a whole; ``allowed`` is that in words."""

    def check(given: str) -> str:
        if not re.fullmatch(pattern, given, re.ASCII):
            raise ValueError(f"given {given!r}, allowed: {allowed}")
        return given

    return AfterValidator(check)


def _time(given: str) -> str:
    """As Slurm reads it: minutes, minutes:seconds, hours:minutes:seconds, days-hours…"""
    days, _, rest = given.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    units = (3600, 60, 1) if days or len(parts) == 3 else (60, 1)
    seconds = 86400 * int(days or 0) + sum(n * unit for n, unit in zip(parts, units, strict=False))
    if seconds < SHORTEST_SECONDS:
        raise ValueError(
            f"given '{given}', which Slurm takes for {seconds / 60:g} minutes, allowed: at least "
            f"{SHORTEST_SECONDS // 60} minutes; an hour is 01:00:00"
        )
    return given


def _gpu(given: str) -> str:
    gpu(given)
    return given


def _short(given: str) -> str:
    if len(given) > SCRATCH_LETTERS:
        raise ValueError(
            f"given {given!r}, allowed: at most {SCRATCH_LETTERS} letters, as Ray keeps sockets "
            "there; a short link to it will do"
        )
    return given


Folder = Annotated[str, AfterValidator(folder)]
Scratch = Annotated[Folder, AfterValidator(_short)]
Gpu = Annotated[str, AfterValidator(_gpu)]
Url = Annotated[str, AfterValidator(_url)]
Line = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
Word = Annotated[str, _shaped(r"[\w.:/@%,+-]+", "one word of letters, digits and ._:/@%,+-")]
Option = Annotated[
    str, _shaped(r"--[a-z][a-z-]*(=[\w.:/@%,+*-]+)?", "one option, such as --mem=0 or --exclusive")
]
Memory = Annotated[str, _shaped(r"[1-9]\d*(Mi|Gi|Ti)", "such as 64Gi, in Mi, Gi or Ti")]
Label = Annotated[
    str,
    _shaped(
        r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?",
        "1 to 63 of a-z, 0-9, '.' and '-', the first and the last a letter or digit",
    ),
]
Time = Annotated[
    str,
    _shaped(r"\d+|\d+-\d+|(\d+-)?\d+(:\d\d){1,2}", "such as 04:00:00 or 1-12:00:00"),
    AfterValidator(_time),
]
