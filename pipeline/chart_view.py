"""The charts that a study opens with in MLflow, provisioned as a saved view of its experiment.

MLflow keeps saved views in experiment tags; their format (3.17) is not documented. A version that
reads it otherwise shows its own default charts; nothing else of the study depends on it.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

VIEW = "isoflop"
TAG = f"mlflow.sharedViewState.{VIEW}"
QUERY = f"viewStateShareKey={VIEW}&compareRunsMode=CHART&workflowType=machine_learning"
SCALING, TRAINING = "scaling", "training"
SECTIONS = {SCALING: "Scaling", TRAINING: "Training"}
COLUMNS = (
    "tags.`architecture`",
    "tags.`budget`",
    "tags.`status`",
    "params.`params_compute`",
    "params.`tokens`",
    "metrics.`heldout_loss`",
    "metrics.`train_seconds`",
)
MOST_RUNS = 500


def view_tag(created: int) -> str:
    """The value of `TAG`; ``created`` in milliseconds since 1970."""
    state = "deflate;" + base64.b64encode(zlib.compress(json.dumps(_state()).encode())).decode()
    about = {"name": "Scaling study", "createdAt": created, "updatedAt": created}
    return json.dumps(about | {"state": state})


def _state() -> dict[str, Any]:
    """What MLflow's page would save: which runs, which columns, which charts in which section."""
    return {
        "searchFilter": "tags.kind = 'train'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": _charts(),
        "compareRunSections": [_section(key, name) for key, name in SECTIONS.items()],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }


def _charts() -> list[dict[str, Any]]:
    return [
        _scatter("IsoFLOP profiles: loss over log10 N", "log10_params", "heldout_loss"),
        _scatter("Loss over log10 C", "log10_flops", "heldout_loss"),
        _scatter("log10 (L − E) over log10 C", "log10_flops", "log10_loss_minus_E"),
        _line(SCALING, "Loss over log10 C", "loss", "log10_flops"),
        _line(SCALING, "Loss over tokens", "loss", "tokens"),
        _parallel("What each run was and reached"),
        *(
            _line(TRAINING, name, name)
            for name in ("grad_norm", "learning_rate", "tokens_per_second", "mfu")
        ),
    ]


def _scatter(title: str, x: str, y: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    return _card("SCATTER", SCALING, title) | axes


def _line(section: str, title: str, metric: str, over: str = "") -> dict[str, Any]:
    """A curve over the step, or with a logarithmic y axis over another metric.

    MLflow gives no x axis but that of steps a logarithm: hence the metric `log10_flops`.
    """
    return _card("LINE", section, title) | {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisKey": "metric" if over else "step",
        "selectedXAxisMetricKey": over,
        "xAxisScaleType": "linear",
        "scaleType": "log" if over else "linear",
        "displayPoints": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
    }


def _parallel(title: str) -> dict[str, Any]:
    return _card("PARALLEL", SCALING, title) | {
        "selectedParams": ["architecture", "params_compute", "tokens", "learning_rate"],
        "selectedMetrics": ["log10_flops", "heldout_loss"],
        "showAllRuns": True,
    }


def _card(kind: str, section: str, title: str) -> dict[str, Any]:
    return {
        "uuid": f"isoflop-{title}",
        "type": kind,
        "runsCountToCompare": MOST_RUNS,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "displayName": title,
    }


def _section(key: str, name: str) -> dict[str, Any]:
    return {
        "uuid": key,
        "name": name,
        "display": True,
        "isReordered": True,
        "isGenerated": False,
        "columns": 2,
    }
