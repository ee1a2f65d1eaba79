"""Fitted laws on disk, by name: those of a study, of a folder that `isoflop fit runs.csv --save`
made, or one file alone. Each is what ``analysis.Fit.to_json`` wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.notices import AnalysisError
from analysis.result import Fit
from pipeline.atomic import write_text
from pipeline.config import Study
from pipeline.errors import StudyError, nearest
from pipeline.fit_record import law_path

SURFACE = "chinchilla"
"""The law that plots and the report are of."""
SOURCE = "source.json"
"""In a folder of saved laws: the table and the options that they were fitted by."""
ANALYSIS = "study"
"""Beside a study's laws: all that was asked of them (``pipeline.fits``)."""
NAME = re.compile(r"[A-Za-z0-9][\w .+-]*")


@dataclass(frozen=True)
class Laws:
    """Laws by architecture, under the name of the study, folder or file that they are of."""

    name: str
    fits: Mapping[str, Fit]
    study: Study | None = None

    @property
    def largest(self) -> float:
        """The largest budget that the laws rest on.

        Raises:
            StudyError: none rests on runs of which the compute is known.
        """
        ranges = [fit.data.ranges for fit in self.fits.values()]
        reached = [each["flops"][1] for each in ranges if "flops" in each]
        if not reached:
            raise StudyError(f"{self.name}: no law of runs whose FLOPs are known, to compare at")
        return max(self.study.grid.targets or reached) if self.study else max(reached)

    @property
    def extrapolate(self) -> list[float]:
        """How far beyond that gains are told, as factors."""
        return sorted(self.study.fit.extrapolate) if self.study else [10.0, 100.0]

    def of(self, architecture: str | None) -> dict[str, Fit]:
        """The law that is asked for, or all.

        Raises:
            StudyError: there is none of that name.
        """
        if architecture is None:
            return dict(self.fits)
        if architecture not in self.fits:
            raise StudyError(
                f"--architecture: given '{architecture}', allowed: {', '.join(self.fits)}"
                f"{nearest(architecture, self.fits)}"
            )
        return {architecture: self.fits[architecture]}


def laws_at(given: str) -> Laws | None:
    """Those of a law's file or of a folder of them; None where ``given`` is neither."""
    path = Path(given)
    if path.suffix == ".json":
        return Laws(path.stem, {path.stem: read_law(path)})
    if not (path / "fits").is_dir():
        return None
    files = sorted(path.glob("fits/*.json"))
    found = {file.stem: read_law(file) for file in files if file.stem != ANALYSIS}
    if not found:
        raise StudyError(f"{path / 'fits'}: no fitted law there; `isoflop fit` makes them")
    return Laws(path.resolve().name, found)


def study_laws(study: Study) -> Laws:
    """Those of every architecture of a study that has one.

    Raises:
        StudyError: none has.
    """
    if found := fits_of(study):
        return Laws(study.name, found, study)
    raise StudyError(f"study '{study.name}': no law there; `isoflop run` or `isoflop fit` makes it")


def fits_of(study: Study) -> dict[str, Fit]:
    """The fitted surface law of every architecture of a study that has one."""
    paths = {name: law_path(name, study.folder) for name in study.variants}
    return {name: read_law(path) for name, path in paths.items() if path.exists()}


def read_law(path: Path) -> Fit:
    """The law in a file.

    Raises:
        StudyError: there is none.
    """
    try:
        return Fit.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{path}: no fitted law there: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AnalysisError):
        raise StudyError(
            f"{path}: given a file that is no fitted law, allowed: one that `isoflop fit` wrote"
        ) from None


def save_table(
    csv: Path, law: str, columns: Mapping[str, str], resamples: int, folder: Path
) -> Laws:
    """Fit ``law`` to each architecture of a table, and keep the laws in ``folder``: ``fits``, the
    table as it was understood, and of the law of loss over parameters and tokens also ``plots`` and
    ``report.html``.

    Raises:
        AnalysisError: the table is none, or too small for the law.
        StudyError: there is something else in the folder.
    """
    from analysis.cli_fit import fit_each

    _refuse_others(folder)
    table, fits = fit_each(csv, law, columns, resamples=resamples)
    _refuse_names(fits)
    for old in folder.glob("fits/*.json"):
        old.unlink()
    options = {"table": str(csv.resolve()), "law": law, "columns": dict(columns)}
    write_text(folder / SOURCE, json.dumps(options | {"resamples": resamples}, indent=1) + "\n")
    for name, fit in fits.items():
        write_text(law_path(name, folder), fit.to_json())
    write_text(folder / "table.csv", table.frame.sort_index().to_csv(index=False))
    if law == SURFACE:
        _draw(table, resamples, folder)
    return Laws(folder.resolve().name, fits)


def _refuse_others(folder: Path) -> None:
    """A folder that is overwritten is empty, or of this command's own making."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SOURCE).is_file():
        raise StudyError(
            f"--save: given {folder}, which holds something else; allowed: a new or empty folder, "
            "or one that --save wrote before"
        )


def _refuse_names(architectures: Iterable[str]) -> None:
    """Each becomes the name of a file."""
    for name in architectures:
        if not NAME.fullmatch(name) or name == ANALYSIS:
            raise StudyError(
                f"architecture: given '{name}', allowed to --save: letters, digits, spaces and "
                f"_ . + -, beginning with one of the first two; and not '{ANALYSIS}'"
            )


def _draw(table: Any, resamples: int, folder: Path) -> None:
    from analysis.plots import write
    from analysis.study import analyze
    from pipeline.report import table_page

    analysis = analyze(table, resamples=resamples)
    write(analysis, folder / "plots")
    write_text(folder / "report.html", table_page(folder.resolve().name, analysis))
