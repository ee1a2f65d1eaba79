"""In a real SQLite store: MLflow has what the journals say, however often it is sent."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.config import RunConfig
from pipeline import bulk, forwarder
from pipeline.forwarder import Forwarder
from pipeline.outbox import Owed, Sample
from pipeline.record import Record
from pipeline.sent import FILE, SentRun
from pipeline.store import scrubbed
from pipeline.tracking import LONGEST_NAME, Tracker, _metric_name

Attempt = Callable[..., Path]


@pytest.fixture
def tracker(database: str, tmp_path: Path) -> Tracker:
    return Tracker(database, tmp_path, tmp_path.name)


def send(tracker: Tracker, folder: Path) -> None:
    tracker.forward(folder, RunConfig.read(folder / "config.json"))


def only_run(tracker: Tracker) -> Any:
    (run,) = tracker.client.search_runs([tracker.experiment_id])
    return run


def curve(tracker: Tracker, key: str) -> list[tuple[int, float]]:
    history = tracker.client.get_metric_history(only_run(tracker).info.run_id, key)
    return [(point.step, point.value) for point in history]


def test_a_run_is_there_in_full(tracker: Tracker, attempt: Attempt) -> None:
    send(tracker, attempt())
    run = only_run(tracker)
    assert curve(tracker, "loss") == [(step, 3 + 1 / step) for step in range(10, 101, 10)]
    assert run.info.status == "FINISHED"
    assert run.data.tags | {"kind": "train", "architecture": "dense"} == run.data.tags
    assert run.data.params["params_compute"] == "700"
    assert run.data.params["learning_rate"] == "0.01"
    assert run.data.metrics["log10_tokens"] == pytest.approx(5.0103, abs=1e-4)
    assert run.data.tags["mlflow.source.git.commit"] == run.data.tags["git_commit"]


def test_the_corpus_is_a_dataset(tracker: Tracker, attempt: Attempt) -> None:
    send(tracker, attempt())
    inputs = only_run(tracker).inputs.dataset_inputs
    found = {entry.tags[0].value: entry.dataset for entry in inputs}
    assert set(found) == {"training", "evaluation"}
    assert [found[key].name for key in sorted(found)] == ["stdlib/heldout", "stdlib/train"]
    assert found["training"].digest == "f" * 36
    source = mlflow.data.get_source(found["training"])
    assert source.to_dict() == {"uri": "/cache/tokens/stdlib/train"}


def test_curves_are_over_steps_tokens_and_flops(tracker: Tracker, attempt: Attempt) -> None:
    send(tracker, attempt())
    steps = [step for step, _ in curve(tracker, "loss")]
    assert curve(tracker, "tokens") == [(step, step * 1024.0) for step in steps]
    assert curve(tracker, "flops") == [(step, step * 1024 * 4200.0) for step in steps]
    assert [step for step, _ in curve(tracker, "log10_flops")] == steps


def test_a_database_gets_what_mlflow_itself_would_write(
    tracker: Tracker, tmp_path: Path, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In portions whose steps are out of order, and twice."""
    folder = attempt()

    def rows(table: str) -> list[Any]:
        with tracker._engine.connect() as database:
            found = database.exec_driver_sql(f"select * from {table} order by key").mappings()
            found = [dict(row) for row in found if row["run_uuid"] == run_id]
        for row in found:
            del row["run_uuid"]
        return sorted(found, key=lambda row: [str(value) for value in row.values()])

    written = []
    for is_bulk in (True, False):
        monkeypatch.setattr(bulk, "takes", lambda _, bulk=is_bulk: bulk)
        run_id = tracker._create_run(RunConfig.read(folder / "config.json"), Owed(SentRun()))
        samples = [Sample("loss", 1 / step, 1000 + step, step) for step in (3, 4, 1, 2, 4)]
        samples += [Sample("best", value, 7, 0) for value in (0.5, 0.1)]
        for part in (samples[:2], samples[2:], samples):
            tracker._batch(run_id, part, {"seed": "0"})
        written.append([rows(table) for table in ("metrics", "latest_metrics", "params")])
    assert written[0] == written[1]
    assert len(written[0][0]) == 6


def test_a_run_that_was_only_begun_to_be_sent_gets_the_rest(
    tracker: Tracker, attempt: Attempt
) -> None:
    folder = attempt()
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(Tracker, "_send", lambda *_: pytest.fail("connection lost", pytrace=False))
        with pytest.raises(pytest.fail.Exception):
            send(tracker, folder)
    assert only_run(tracker).data.params == {}
    send(tracker, folder)
    assert only_run(tracker).data.params["params_compute"] == "700"


@given(st.text(max_size=300))
def test_names_are_within_the_rules_of_mlflow(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(_metric_name(name))
    assert len(_metric_name(name)) <= LONGEST_NAME
    assert _metric_name("aux/loss@expert (3)//x") == "aux/loss_expert _3_/x"


@pytest.mark.parametrize("forget", [True, False], ids=["state lost", "state kept"])
def test_sending_again_changes_nothing(tracker: Tracker, attempt: Attempt, forget: bool) -> None:
    folder = attempt()
    send(tracker, folder)
    before = only_run(tracker).to_dictionary(), curve(tracker, "loss"), curve(tracker, "tokens")
    if forget:
        (folder / FILE).unlink()
    send(tracker, folder)
    after = only_run(tracker).to_dictionary(), curve(tracker, "loss"), curve(tracker, "tokens")
    assert before == after


def test_a_resumed_run_goes_on_in_the_same_run(tracker: Tracker, attempt: Attempt) -> None:
    folder = attempt(steps=range(10, 71, 10), end="preempted")
    send(tracker, folder)
    assert only_run(tracker).info.status == "KILLED"
    attempt(steps=range(60, 101, 10), resumed_from=50)
    send(tracker, folder)
    assert [step for step, _ in curve(tracker, "loss")] == list(range(10, 101, 10))
    assert only_run(tracker).info.status == "FINISHED"
    assert only_run(tracker).data.tags["attempt"] == "2"


def test_a_deleted_run_stays_deleted(tracker: Tracker, attempt: Attempt) -> None:
    folder = attempt(end="preempted")
    send(tracker, folder)
    tracker.client.delete_run(SentRun.read(folder).run_id)
    attempt(steps=[110], resumed_from=100)
    send(tracker, folder)
    assert tracker.has_run(folder)
    assert tracker.client.search_runs([tracker.experiment_id]) == []


def test_a_store_made_anew_gets_everything(tmp_path: Path, attempt: Attempt) -> None:
    """In a folder whose name needs quoting in a URI, too."""
    folder, study = attempt(), tmp_path / "my 100% study?#1"
    send(Tracker(None, study, "study"), folder)
    (study / "mlflow.db").unlink()
    again = Tracker(None, study, "study")
    assert not again.has_run(folder)
    send(again, folder)
    assert len(curve(again, "loss")) == 10


BEGIN = """
import sys
from pathlib import Path
from pipeline.tracking import Tracker

folder = Path(sys.argv[1])
print(Tracker(None, folder, folder.name).experiment_id)
"""


@pytest.mark.parametrize("seconds", [pytest.param(0.05, marks=pytest.mark.slow), 0.8])
def test_a_kill_while_the_database_is_made_leaves_none(tmp_path: Path, seconds: float) -> None:
    process = subprocess.Popen([sys.executable, "-c", BEGIN, tmp_path])
    while not list(tmp_path.glob(".mlflow-*/mlflow.db")):
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(seconds)
    process.kill()
    process.wait()
    assert Tracker(None, tmp_path, tmp_path.name).experiment_id


def test_a_settled_study_is_told_so_without_mlflow(
    tracker: Tracker, database: str, tmp_path: Path, attempt: Attempt
) -> None:
    folder = attempt()
    send(tracker, folder)
    code = f"""
import sys
from pathlib import Path
from pipeline.forwarder import Forwarder
from pipeline.outbox import Owed, Sample
from pipeline.tracking import Tracker
tracker = Tracker({database!r}, Path({str(tmp_path)!r}), {tmp_path.name!r})
assert tracker.has_run(Path({str(folder)!r}))
with Forwarder(tracker, Path({str(folder.parent)!r}), print):
    pass
assert "mlflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_record_is_one_run_until_its_content_changes(tracker: Tracker, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("params,loss\n1,2\n")
    record = Record("fit", "fit-dense", "1", metrics={"E": 1.7}, artifacts=(table,))
    tracker.log(record)
    assert tracker.has_record(record)
    tracker.log(record)
    first = only_run(tracker).info.run_id
    changed = Record("fit", "fit-dense", "2", metrics={"E": 1.8}, artifacts=(table,))
    assert not tracker.has_record(changed)
    tracker.log(changed)
    second, superseded = tracker.client.search_runs([tracker.experiment_id])
    assert superseded.info.run_id == first
    statuses = [run.data.tags["status"] for run in (second, superseded)]
    assert statuses == ["finished", "superseded"]
    listed = tracker.client.list_artifacts(second.info.run_id)
    assert [item.path for item in listed] == ["table.csv"]


def test_an_outage_is_told_once_and_made_up_for(
    tracker: Tracker, tmp_path: Path, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    runs = attempt().parent
    forward = tracker.forward

    def refuse(*_: object) -> None:
        raise ConnectionError("no route to http://user:secret@host")

    with monkeypatch.context() as down:
        down.setattr(tracker, "forward", refuse)
        forwarder = Forwarder(tracker, runs, said.append)
        forwarder._round()
        forwarder._round()
        assert len(said) == 1
        assert "secret" not in said[0]
    assert tracker.forward == forward
    forwarder._round()
    assert said[1:] == ["MLflow is back, and has everything so far"]
    assert len(curve(tracker, "loss")) == 10


def test_training_does_not_wait_for_a_store_that_hangs(
    tracker: Tracker, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Journals grow while nothing goes through; what is on them is sent when it does again."""
    said: list[str] = []
    asked, released = Event(), Event()
    forward = tracker.forward

    def hang(run: Path, config: RunConfig) -> None:
        asked.set()
        assert released.wait(30)
        forward(run, config)

    runs = attempt("first", end=None).parent
    monkeypatch.setattr(tracker, "forward", hang)
    with Forwarder(tracker, runs, said.append, interval=0.01, patience=0.1) as forwarder:
        assert asked.wait(10)
        attempt("first", steps=range(110, 201, 10), resumed_from=100)
        attempt("second")
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert said == ["MLflow still lacks 2 runs; the same command will send them"]
    assert forwarder.is_outage
    released.set()
    forwarder._thread.join(10)
    with Forwarder(tracker, runs, said.append):
        pass
    assert len(said) == 1
    found = {r.info.run_name: r for r in tracker.client.search_runs([tracker.experiment_id])}
    assert sorted(found) == ["first", "second"]
    history = tracker.client.get_metric_history(found["first"].info.run_id, "loss")
    assert [point.step for point in history] == list(range(10, 201, 10))


def test_it_is_waited_for_while_runs_go_through(
    tracker: Tracker, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than its patience, if each run is quicker."""
    said: list[str] = []
    forward = tracker.forward

    def slow(run: Path, config: RunConfig) -> None:
        time.sleep(0.5)
        forward(run, config)

    assert tracker.store
    for number in range(8):
        runs = attempt(f"run-{number}").parent
    monkeypatch.setattr(tracker, "forward", slow)
    with Forwarder(tracker, runs, said.append, interval=60, patience=3.0):
        pass
    assert said == []
    assert len(tracker.client.search_runs([tracker.experiment_id])) == 8


def test_who_is_interrupted_waits_for_few(
    tracker: Tracker, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm ends the driver soon."""
    for number in range(40):
        runs = attempt(f"run-{number}").parent
    monkeypatch.setattr(tracker, "forward", lambda *_: time.sleep(0.1))
    monkeypatch.setattr(forwarder, "HASTE", 0.3)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Forwarder(tracker, runs, lambda _: None):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 2


def test_the_forwarder_follows_a_growing_run(
    tracker: Tracker, tmp_path: Path, attempt: Attempt
) -> None:
    said: list[str] = []
    with Forwarder(tracker, tmp_path / "runs", said.append, interval=0.05):
        attempt(end=None)
        attempt("second")
    assert len(tracker.client.search_runs([tracker.experiment_id])) == 2
    assert said == []


def test_a_uri_is_shown_without_its_password() -> None:
    for password in ("secret", "se@cr:et"):
        uri = f"postgresql://me:{password}@db:5432/mlflow"
        assert scrubbed(f"no route to {uri}") == "no route to postgresql://db:5432/mlflow"
