"""The study that a folder is of, as it was resolved: kept there, where its name leads to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.atomic import write_text
from pipeline.errors import ConfigError, nearest
from pipeline.tables import listed
from pipeline.yaml_file import dump_yaml, find

if TYPE_CHECKING:
    from pipeline.config import Study

STUDY = "study.yaml"
OUTPUT = "studies"
"""The folder of studies, if none is given."""


def keep(study: Study) -> Path:
    """Write the study into its folder, with every default and nothing left to look up."""
    path = study.folder / STUDY
    write_text(path, as_yaml(study))
    return path


def spoken(folder: Path) -> str:
    """What a command is told to mean the study of this folder: its name, or what is kept there."""
    is_found = folder.parent == Path(OUTPUT).resolve()
    return folder.name if is_found else str(folder / STUDY)


def as_yaml(study: Study) -> str:
    """The study as a file that ``load_study`` reads back as it is."""
    return dump_yaml(study.model_dump(mode="json"))


def is_kept(study: Study) -> bool:
    """Whether its folder is of this very study."""
    from pipeline.config import load_study

    try:
        return load_study(study.folder / STUDY).fingerprint() == study.fingerprint()
    except ConfigError:
        return False


def find_study(name: str, outputs: Sequence[str]) -> Path:
    """The file that ``name`` stands for: itself, an example, or what is kept of a study of that
    name in one of ``outputs``, the first that has it.

    Raises:
        ConfigError: it stands for nothing; the message tells of those that are there.
    """
    try:
        return find(name, "studies", Path.cwd(), "study")
    except ConfigError as error:
        files = (path for output in reversed(outputs) for path in Path(output).glob(f"*/{STUDY}"))
        known = {path.parent.name: path for path in files}
        if name in known:
            return known[name]
        if not known:
            raise
        there = f"{listed(sorted(known))}{nearest(name, known)}"
        raise ConfigError([f"{error}; in {' and '.join(outputs)}: {there}"]) from None
