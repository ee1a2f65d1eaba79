"""What a fitted study shows to those who were not there: its fits, plots and report in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.fit_record import digest
from pipeline.forwarder import Forwarder
from pipeline.record import Record
from pipeline.store import scrubbed
from pipeline.tracking import Tracker

REPORT_FILES = ("report.html", "table.csv", "plots", "fits")


def publish(tracker: Tracker, analysis: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Send MLflow what it lacks of an analysis (`StudyAnalysis.to_dict`); only tell an outage."""
    with Forwarder(tracker, tracker.folder / "runs", say) as forwarder:
        pass
    if forwarder.is_outage:
        return
    with _outage_told(tracker, say):
        for architecture, part in analysis["architectures"].items():
            tracker.log_fit(architecture, part)
        tracker.log(report_record(tracker.folder))


def send(tracker: Tracker, records: Iterable[Record], say: Callable[[str], None]) -> None:
    """Send MLflow those records that it lacks; only tell an outage."""
    with _outage_told(tracker, say):
        for record in records:
            if not tracker.has_record(record):
                tracker.log(record)


@contextmanager
def _outage_told(tracker: Tracker, say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever MLflow or its store raises, all of it is on disk
        reason = scrubbed(str(error)).partition("\n")[0]
        say(f"MLflow at {scrubbed(tracker.uri)} took not all ({reason}); the same command sends it")


def report_record(study_folder: Path) -> Record:
    """The study as a whole: its report, its table, every plot and every fit."""
    present = [path for name in REPORT_FILES if (path := study_folder / name).exists()]
    texts = [*present, study_folder / "fits" / "study.json"]
    content = [path.read_text(encoding="utf-8") for path in texts if path.is_file()]
    return Record(
        kind="report",
        name="report",
        fingerprint=digest("".join(content)),
        note="Open `report.html` among the artifacts: the study from question to answer.",
        artifacts=tuple(present),
    )
