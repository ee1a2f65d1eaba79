"""The laws that a study has on disk, by architecture."""

from __future__ import annotations

from analysis.result import Fit
from pipeline.config import Study
from pipeline.errors import StudyError, nearest
from pipeline.fit_record import law_path
from pipeline.kept import spoken
from pipeline.law_files import read_law


def architectures_of(study: Study, architecture: str | None) -> list[str]:
    """The one that is asked for, or all.

    Raises:
        StudyError: the study has no such architecture.
    """
    if architecture is not None and architecture not in study.variants:
        known = ", ".join(study.variants)
        raise StudyError(
            f"--architecture: given '{architecture}', allowed: {known}"
            f"{nearest(architecture, study.variants)}"
        )
    return [architecture] if architecture else list(study.variants)


def fit_of(study: Study, architecture: str) -> Fit:
    """The law that was fitted to an architecture.

    Raises:
        StudyError: none was.
    """
    path = law_path(architecture, study.folder)
    if not path.is_file():
        fits = f"`isoflop fit {spoken(study.folder)}` fits what is finished"
        raise StudyError(f"{path}: no fitted law; {fits}")
    return read_law(path)
