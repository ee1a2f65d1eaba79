"""The saved view is one that MLflow's page can read, of metrics that the tracker sends."""

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.config import RunConfig
from pipeline.chart_view import SECTIONS, TAG, view_tag
from pipeline.outbox import owed
from pipeline.run_facts import final_samples, params
from pipeline.sent import SentRun
from pipeline.tracking import Tracker

AFTER_THE_FIT = {"log10_loss_minus_E"}


def view() -> Any:
    state = json.loads(view_tag(1))["state"].removeprefix("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(state)))


def test_every_chart_shows_what_is_sent(
    attempt: Callable[..., Path], run_config: RunConfig
) -> None:
    update = owed(attempt(), SentRun())
    assert update.ended
    samples = update.samples + final_samples(run_config, update.ended)
    sent = {sample.key for sample in samples} | AFTER_THE_FIT
    for chart in view()["compareRunCharts"]:
        assert chart["metricSectionId"] in SECTIONS
        axes = [chart[axis]["key"] for axis in ("xaxis", "yaxis") if axis in chart]
        lines = [chart.get("metricKey"), chart.get("selectedXAxisMetricKey")]
        shown = {*axes, *filter(None, lines), *chart.get("selectedMetrics", ())}
        assert shown <= sent
        assert set(chart.get("selectedParams", ())) <= set(params(run_config))


def test_it_is_provisioned_once_and_fits_a_tag(database: str, tmp_path: Path) -> None:
    tracker = Tracker(database, tmp_path, tmp_path.name)
    assert tracker.store
    tags = tracker.client.get_experiment(tracker.experiment_id).tags
    assert len(tags[TAG]) < 5000
    tracker.client.set_experiment_tag(tracker.experiment_id, TAG, "a reader's own")
    again = Tracker(database, tmp_path, tmp_path.name)
    assert again.store
    assert again.client.get_experiment(again.experiment_id).tags[TAG] == "a reader's own"
