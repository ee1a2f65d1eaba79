"""What the rounds of an adaptive study proposed, in its folder: a stopped study goes on with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.atomic import write_text
from pipeline.config import Study
from pipeline.grids import Proposal


def read_proposals(study: Study) -> list[Proposal]:
    """What earlier rounds proposed, in their order; none for a study that is not adaptive."""
    path = _path(study)
    return [Proposal(**fields) for fields in json.loads(path.read_text())] if path.exists() else []


def write_proposals(study: Study, proposals: Sequence[Proposal]) -> None:
    """Keep all of them, before any starts."""
    text = json.dumps([asdict(proposal) for proposal in proposals], indent=1)
    write_text(_path(study), text + "\n")


def _path(study: Study) -> Path:
    return study.folder / "rounds.json"
