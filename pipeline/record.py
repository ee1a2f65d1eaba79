"""What MLflow holds beside training runs: fits, reports, comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """A run that no training made. Its ``fingerprint`` changes when what it says does.

    ``artifacts`` are files and folders, each put under its own name; ``note`` is Markdown.
    """

    kind: str
    name: str
    fingerprint: str
    note: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: tuple[Path, ...] = ()
