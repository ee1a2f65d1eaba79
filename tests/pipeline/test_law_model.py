"""The registered law predicts what the fit predicts, wherever it is loaded."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.result import Fit
from analysis.study import analyze
from pipeline.atomic import write_text
from pipeline.fit_record import law_path
from pipeline.mlflow_ui import free_port
from pipeline.publish import publish
from pipeline.tracking import Tracker


def planted(floor: float, rows: int = 7) -> pd.DataFrame:
    """A Chinchilla surface sampled at four budgets around its optimum, with a little noise."""
    budget = np.repeat(np.geomspace(1e17, 1e20, 4), rows)
    params = np.tile(np.geomspace(1 / 6, 6, rows), 4) * np.sqrt(budget / 120)
    tokens = budget / 6 / params
    loss = floor + 477.8 / params**0.347 + 2143.4 / tokens**0.367
    noise = np.random.default_rng(0).normal(0, 0.003, len(loss))
    columns = {"params": params, "tokens": tokens, "flops": budget, "budget": budget}
    return pd.DataFrame(columns | {"loss": loss * np.exp(noise), "architecture": "dense"})


def write_fits(folder: Path, table: pd.DataFrame) -> dict[str, Any]:
    analysis = analyze(table, resamples=100)
    for name, part in analysis.architectures.items():
        if part.approach3:
            write_text(law_path(name, folder), part.approach3.to_json())
    return analysis.to_dict()


@pytest.fixture(scope="module")
def study(database: str, tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """A study whose dense law is fitted and registered."""
    folder = tmp_path_factory.mktemp("quickstart")
    tracker = Tracker(database, folder, "quickstart")
    publish(tracker, write_fits(folder, planted(1.8)), pytest.fail)
    return tracker


def versions(tracker: Tracker) -> list[int]:
    found = tracker.client.search_model_versions(f"name = '{tracker.study}-dense'")
    return sorted(int(each.version) for each in found)


def fit_runs(tracker: Tracker) -> list[Any]:
    condition = "tags.kind = 'fit' and tags.architecture = 'dense'"
    return list(tracker.client.search_runs([tracker.experiment_id], condition))


def test_it_predicts_as_the_fit_does(study: Tracker) -> None:
    """Of a column of floats or of integers, in a process that has nothing of the project."""
    floats, integers = [1e15], [10**18, 10**21]
    code = f"""
import sys
import mlflow, pandas as pd
mlflow.set_tracking_uri({study.uri!r})
law = mlflow.pyfunc.load_model("models:/quickstart-dense/1")
rows = pd.concat([law.predict(pd.DataFrame({{"flops": flops}})) for flops in ({floats}, {integers})])
print(rows.to_json(orient="records", double_precision=15))
"""
    command = [sys.executable, "-I", "-c", code]
    answer = subprocess.run(command, cwd="/", check=True, capture_output=True, text=True).stdout
    fit = Fit.from_json(law_path("dense", study.folder).read_text())
    for row, asked in zip(json.loads(answer), [*floats, *integers], strict=True):
        best = fit.allocate(asked)
        for name in ("params", "tokens", "loss"):
            estimate = getattr(best, name)
            ends = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
            assert ends == pytest.approx([estimate.value, estimate.low, estimate.high], rel=1e-9)
        assert bool(row["warnings"]) == (asked > 1e20)


def test_the_guide_predicts(study: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    """The guide's own lines, in the store of this study."""
    guide = (Path(__file__).parents[2] / "docs" / "mlflow.md").read_text()
    (code,) = re.findall(r"```python\n(import mlflow.*?)```", guide, re.DOTALL)
    exec(code.replace("sqlite:///studies/quickstart/mlflow.db", study.uri))
    assert "loss_high" in capsys.readouterr().out


def test_the_fit_is_a_run_with_intervals(study: Tracker) -> None:
    (run,) = fit_runs(study)
    metrics = run.data.metrics
    assert metrics["E_low"] < metrics["E"] < metrics["E_high"]
    assert metrics["a_low"] < metrics["a"] < metrics["a_high"]
    assert run.data.params["law"] == "chinchilla"
    assert "| alpha |" in run.data.tags["mlflow.note.content"]


def test_only_another_fit_makes_another_version(database: str, tmp_path: Path) -> None:
    tracker = Tracker(database, tmp_path, "refitted")
    for floor, expected in ((1.8, [1]), (1.8, [1]), (1.7, [1, 2])):
        publish(tracker, write_fits(tmp_path, planted(floor)), pytest.fail)
        assert versions(tracker) == expected
    statuses = [run.data.tags["status"] for run in fit_runs(tracker)]
    assert sorted(statuses) == ["finished", "superseded"]


def test_an_alias_names_the_best_at_holdout(database: str, tmp_path: Path) -> None:
    tracker = Tracker(database, tmp_path, "scored")
    for error in (0.02, 0.01, 0.03):
        analysis = write_fits(tmp_path, planted(1.8 + error))
        analysis["architectures"]["dense"]["holdout"] = [{"mean_error": error}]
        publish(tracker, analysis, pytest.fail)
    best = tracker.client.get_model_version_by_alias("scored-dense", "best-holdout")
    assert int(best.version) == 2
    assert best.tags["holdout_error"] == "0.01"


def test_what_is_not_identifiable_is_told_but_no_model(database: str, tmp_path: Path) -> None:
    """Three points give no law."""
    tracker = Tracker(database, tmp_path, "tiny")
    publish(tracker, write_fits(tmp_path, planted(1.8).iloc[:3]), pytest.fail)
    (run,) = fit_runs(tracker)
    assert int(run.data.tags["warnings"]) > 0
    assert versions(tracker) == []


def test_what_is_there_is_published_again_without_mlflow(study: Tracker) -> None:
    """Whose import alone takes seconds."""
    analysis = study.folder / "analysis.json"
    analysis.write_text(json.dumps(write_fits(study.folder, planted(1.8))))
    code = f"""
import json, sys
from pathlib import Path
from pipeline.publish import publish
from pipeline.tracking import Tracker
folder = Path({str(study.folder)!r})
tracker = Tracker({study.uri!r}, folder, "quickstart")
publish(tracker, json.loads((folder / "analysis.json").read_text()), print)
assert "mlflow" not in sys.modules
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == ""


@pytest.mark.slow
def test_it_can_be_served(study: Tracker, tmp_path: Path) -> None:
    port = free_port(5001)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", "models:/quickstart-dense/1", "--port", str(port), "--workers", "1"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": study.uri, "PATH": path}
    server = subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True)
    try:
        answer = _post(f"http://127.0.0.1:{port}/invocations", {"inputs": [{"flops": 10**18}]})
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    best = Fit.from_json(law_path("dense", study.folder).read_text()).allocate(1e18)
    (row,) = answer["predictions"]
    assert row["params"] == pytest.approx(best.params.value, rel=1e-9)
    assert best.loss
    assert row["loss_low"] == pytest.approx(best.loss.low, rel=1e-9)


def _post(url: str, body: dict[str, Any]) -> Any:
    """The answer of a server that is still starting, once it has one."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return json.load(reply)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
