"""Commands that read a study, or hold it, reach one of a cluster by the folder that it shares."""

import json
from pathlib import Path

import pytest
from typer.main import get_command

from pipeline.cli import app
from pipeline.job import PAUSED
from pipeline.kept import keep
from tests.pipeline.test_compare import study

READING = ("status", "watch", "pause", "ui", "fit", "predict", "allocate", "forecast", "compare")
CLUSTER = """
kind: ray
dashboard: http://127.0.0.1:1
nodes: 1
cpus_per_node: 2
shared: {shared}
"""


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A cluster's file; of its folder this machine sees a study called "mine", with a law."""
    keep(study(tmp_path / "shared", "mine", 1.0))
    file = tmp_path / "lab.yaml"
    file.write_text(CLUSTER.format(shared=tmp_path / "shared"))
    return file


@pytest.mark.parametrize("command", READING)
def test_every_command_that_reads_a_study_takes_a_cluster(command):
    options = {name for one in get_command(app).commands[command].params for name in one.opts}
    assert "--cluster" in options


def test_a_study_of_a_cluster_is_held_where_it_runs(run, there):
    code, _, err = run("pause", "mine", "--cluster", there)
    assert (code, err) == (0, "")
    assert (there.parent / "shared" / "mine" / PAUSED).exists()
    run("pause", "mine", "--off", "--cluster", there)
    assert not (there.parent / "shared" / "mine" / PAUSED).exists()


def test_its_laws_are_read_where_they_are(run, there, monkeypatch):
    monkeypatch.setattr("pipeline.publish.send", lambda *_: None)  # MLflow takes seconds
    code, out, _ = run("compare", "mine", "mine", "--cluster", there, "--json")
    assert code == 0
    assert json.loads(out)["studies"] == ["mine", "mine"]


def test_what_is_not_there_or_not_seen_is_said(run, there):
    code, _, err = run("watch", "mime", "--cluster", there)
    assert (code, "did you mean 'mine'" in err) == (2, True)
    code, _, err = run("watch", "quickstart", "--cluster", there)
    assert (code, "its job has not begun" in err) == (2, True)
    there.write_text(CLUSTER.format(shared="/nowhere/studies"))
    for command in ("watch", "status"):
        code, _, err = run(command, "mine", "--cluster", there)
        assert (code, "is not seen from" in err, "isoflop jobs" in err) == (2, True, True)
