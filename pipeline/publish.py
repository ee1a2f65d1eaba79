"""What a fitted study shows to those who were not there: its records in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.forwarder import Forwarder
from pipeline.tracking import Tracker, scrubbed


def publish(tracker: Tracker, analysis: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Send MLflow what it lacks of an analysis (`StudyAnalysis.to_dict`); only tell an outage."""
    with Forwarder(tracker, tracker.folder / "runs", say):
        pass
    try:
        for architecture, part in analysis["architectures"].items():
            tracker.log_fit(architecture, part)
    except Exception as error:  # whatever MLflow or its store raises, the fits are on disk
        reason = scrubbed(str(error)).partition("\n")[0]
        say(f"MLflow at {scrubbed(tracker.uri)} took no fits ({reason}); `isoflop fit` sends them")
