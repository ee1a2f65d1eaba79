"""The driver over a real Ray: rounds, pauses, priorities and Ctrl-C, of studies of minute runs."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from launch.journal import read_run

STUDY = """\
name: tiny
corpus: {name: texts, source: {kind: text, path: %(corpus)s}, heldout: 0.2}
tokenizer: {kind: bpe, vocab_size: 300}
architectures:
  dense: {recipe: llama}
  urgent: {recipe: gpt2, priority: 1}
grid: {type: isoflop, budgets: [5e8, 1e9], sizes: 2, min_steps: 4, max_epochs: 1000}
rule: {name: constant, learning_rate: 0.01, batch_tokens: 128}
train: {sequence_length: 32, evaluations: 2, eval_tokens: 512, log_points: 10}
fit: {baseline: dense, resamples: 100}
"""
ADAPTIVE = (
    "grid={type: adaptive, budgets: [1e8, 3e8, 1e9], sizes: 5, min_steps: 4, max_epochs: 1000, "
    "at: 1e10, interval: 1.001, round: 2, spend: 8.5e9}"
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("driver")
    corpus = root / "corpus"
    corpus.mkdir()
    words = [f"word{number}" for number in range(60)]
    for number in range(100):
        choose = random.Random(number).choices
        lines = [" ".join(choose(words, k=9)) for _ in range(20)]
        (corpus / f"{number:03d}.txt").write_text("\n".join(lines))
    path = root / "study.yaml"
    path.write_text(STUDY % {"corpus": corpus})
    return path


@pytest.fixture(scope="module")
def undisturbed(study: Path) -> pd.DataFrame:
    run = start(study, "undisturbed")
    assert run.wait(700) == 0, run.stdout.read()
    return losses(study, "undisturbed")


def start(study: Path, output: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", study, output, "--slots", "1", *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def command(name: str, study: Path, output: str, *more: str) -> list[str]:
    isoflop = str(Path(sys.executable).with_name("isoflop"))
    return [isoflop, name, str(study), f"output={study.parent / output}", *more]


def folder(study: Path, output: str) -> Path:
    return study.parent / output / "tiny"


def losses(study: Path, output: str) -> pd.DataFrame:
    table = pd.read_csv(folder(study, output) / "table.csv", float_precision="round_trip")
    assert set(table["status"]) == {"finished"}
    return table.set_index("run")[["tokens", "loss", "train_loss"]]


def wait_for(seen: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 700
    while not seen():
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def statuses(study: Path, output: str) -> list[str]:
    runs = folder(study, output) / "runs"
    return [read_run(path.parent).status for path in runs.glob("*/journal.jsonl")]


def test_runs_of_a_higher_priority_go_first(study: Path, undisturbed: pd.DataFrame) -> None:
    runs = [read_run(path) for path in (folder(study, "undisturbed") / "runs").iterdir()]
    order = [run.folder.name for run in sorted(runs, key=lambda run: run.attempts[0].time)]
    urgent = [name for name in order if name.startswith("urgent")]
    assert order[: len(urgent)] == urgent
    assert 0 < len(urgent) < len(order)


def test_ctrl_c_saves_every_run_and_the_same_command_ends_as_if_nothing_had_been(
    study: Path, undisturbed: pd.DataFrame
) -> None:
    run = start(study, "interrupted")
    wait_for(lambda: sorted(statuses(study, "interrupted"))[-2:] == ["finished", "running"], run)
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    assert run.wait(200) == 130
    told = run.stdout.read()
    assert "stopped; every run has saved its state, and the same command goes on" in told
    assert "Traceback" not in told
    assert "running" not in statuses(study, "interrupted")

    again = start(study, "interrupted")
    assert again.wait(700) == 0, again.stdout.read()
    pd.testing.assert_frame_equal(losses(study, "interrupted"), undisturbed)


def test_a_pause_holds_every_run_until_it_is_over(study: Path, undisturbed: pd.DataFrame) -> None:
    run = start(study, "paused")
    wait_for(lambda: "running" in statuses(study, "paused"), run)
    subprocess.run(command("pause", study, "paused"), check=True)
    told = folder(study, "paused") / "sweep.json"
    wait_for(lambda: told.exists() and json.loads(told.read_text())["paused"], run)
    wait_for(lambda: "running" not in statuses(study, "paused"), run)
    sizes = [path.stat().st_size for path in told.parent.glob("runs/*/journal.jsonl")]
    time.sleep(3)
    assert sizes == [path.stat().st_size for path in told.parent.glob("runs/*/journal.jsonl")]

    subprocess.run(command("pause", study, "paused", "--off"), check=True)
    assert run.wait(700) == 0, run.stdout.read()
    pd.testing.assert_frame_equal(losses(study, "paused"), undisturbed)


def test_an_adaptive_study_trains_what_its_rounds_propose(study: Path) -> None:
    run = start(study, "rounds", ADAPTIVE, "architectures={dense: {recipe: llama}}")
    assert run.wait(1200) == 0, run.stdout.read()
    proposals = json.loads((folder(study, "rounds") / "rounds.json").read_text())
    rounds = [proposal["round"] for proposal in proposals]
    assert max(rounds) >= 2
    assert max(rounds.count(number) for number in set(rounds)) <= 2
    assert len(losses(study, "rounds")) == 15 + len(proposals)
    assert "more runs" in run.stdout.read()
