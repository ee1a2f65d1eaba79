"""A whole study of a handful of tiny runs, through the real command, Ray, DeepSpeed and MLflow."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

STUDY = """\
name: tiny
corpus: {name: texts, source: {kind: code, root: %(corpus)s}, heldout: 0.2}
tokenizer: {kind: bpe, vocab_size: 300}
architectures:
  dense: {recipe: llama}
  moe: {recipe: mixtral}
grid: {type: isoflop, budgets: [1e8, 3e8, 1e9], sizes: 5, spread: 3, min_steps: 4, max_epochs: 1000}
rule: {name: constant, learning_rate: 0.01, batch_tokens: 128}
train: {sequence_length: 32, evaluations: 2, eval_tokens: 512, log_points: 10}
fit: {baseline: dense, resamples: 100}
output: %(output)s
"""
WORDS = [
    "def",
    "class",
    "return",
    "import",
    "value",
    "total",
    "for",
    "item",
    "in",
    "range",
    "if",
    "else",
    "None",
]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("study")
    corpus = root / "corpus"
    corpus.mkdir()
    for number in range(200):
        choose = random.Random(number).choices
        lines = [" ".join(choose(WORDS, k=9)) for _ in range(12)]
        (corpus / f"{number:03d}.py").write_text("\n".join(lines))
    path = root / "study.yaml"
    path.write_text(STUDY % {"corpus": corpus, "output": root / "out"})
    return path


def isoflop(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("isoflop")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=390)


def journals(study: Path) -> dict[str, bytes]:
    return {
        path.parent.name: path.read_bytes()
        for path in (study.parent / "out/tiny/runs").glob("*/journal.jsonl")
    }


def statuses(study: Path) -> list[str]:
    return [row["status"] for row in json.loads(isoflop("status", study, "--json").stdout)]


def test_a_study_killed_in_the_middle_goes_on_and_ends_in_a_registered_law(study):
    command = [str(Path(sys.executable).with_name("isoflop")), "run", str(study)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while sum(b'"finished"' in text for text in journals(study).values()) < 2:
        assert first.poll() is None, first.stdout.read()
        assert time.monotonic() < deadline, "no run finished in two minutes"
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = {name: text for name, text in journals(study).items() if b'"finished"' in text}

    shown = isoflop("run", study)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert set(statuses(study)) == {"finished"}
    after = journals(study)
    assert {name: after[name] for name in before} == before, "a finished run was touched again"

    begin = time.monotonic()
    again = isoflop("run", study)
    assert again.returncode == 0, again.stdout + again.stderr
    assert time.monotonic() - begin < 15
    assert journals(study) == after


def test_the_registered_law_predicts_what_the_fit_predicts(study):
    import mlflow

    folder = study.parent / "out" / "tiny"
    predicted = json.loads(
        isoflop("predict", study, "--flops", "1e10", "-a", "dense", "--json").stdout
    )[0]
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    law = mlflow.pyfunc.load_model("models:/tiny-dense/1")
    served = law.predict(pd.DataFrame({"flops": [1e10]})).iloc[0]
    allocation = predicted["allocation"]
    assert served["params"] == pytest.approx(allocation["params"]["value"], rel=1e-9)
    assert served["tokens"] == pytest.approx(allocation["tokens"]["value"], rel=1e-9)
    assert served["loss"] == pytest.approx(allocation["loss"]["value"], rel=1e-9)
    assert served["loss_low"] <= served["loss"] <= served["loss_high"]
    run = json.loads(Path(predicted["config"]).read_text())
    assert run["cost"]["training_flops_per_token"] * run["train"]["steps"] * run["data"][
        "batch_size"
    ] * 32 == pytest.approx(1e10, rel=0.05)


def test_every_run_and_every_plot_is_in_mlflow(study):
    from mlflow import MlflowClient

    folder = study.parent / "out" / "tiny"
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    plan = json.loads((folder / "plan.json").read_text())
    assert sum(run.data.tags["kind"] == "train" for run in runs) == len(plan["runs"])
    fits = [run for run in runs if run.data.tags["kind"] == "fit"]
    assert {run.data.tags["architecture"] for run in fits} == {"dense", "moe"}
    assert list((folder / "plots").glob("*.png"))
    assert list((folder / "plots").glob("*.html"))


def test_commands_that_read_print_json_and_nothing_else(study):
    for arguments in (["plan", study], ["status", study], ["fit", study]):
        shown = isoflop(*arguments, "--json")
        assert shown.returncode == 0, shown.stderr
        json.loads(shown.stdout)


def test_a_run_is_exported_to_transformers_and_goes_on_with_the_same_words(study, tmp_path):
    transformers = pytest.importorskip("transformers")
    run = next((study.parent / "out/tiny/runs").glob("dense-*"))
    shown = isoflop("export", run, tmp_path / "hf")
    assert shown.returncode == 0, shown.stderr
    ours = isoflop("generate", run, "--prompt", "def class", "--tokens", "12").stdout.rstrip("\n")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = tokenizer("def class", return_tensors="pt", add_special_tokens=False)["input_ids"]
    theirs = model.generate(ids, max_new_tokens=12, do_sample=False)[0]
    assert tokenizer.decode(theirs) == ours
    refused = isoflop("export", run, tmp_path / "hf")
    assert (refused.returncode, "not empty" in refused.stderr) == (2, True)


def test_two_ranks_with_expert_parallelism_reach_the_loss_of_one(study):
    narrow = ["grid.budgets=[1e8]", "parallel.ranks=2", "name=pair"]
    shown = isoflop("run", study, *narrow)
    pair = pd.read_csv(study.parent / "out" / "pair" / "table.csv")
    assert set(pair["status"]) == {"finished"}, shown.stdout + shown.stderr
    alone = pd.read_csv(study.parent / "out" / "tiny" / "table.csv")
    both = pair.merge(alone, on="run", suffixes=("_pair", "_alone"))
    assert len(both) == len(pair) > 0
    assert both["loss_pair"].to_numpy() == pytest.approx(both["loss_alone"].to_numpy(), rel=2e-3)


@pytest.mark.slow
def test_a_ladders_branches_start_from_their_trunks_and_its_law_is_put_to_the_test(study):
    grid = "grid={type: ladder, params: [5e3, 1e4, 2e4], tokens_per_parameter: [2, 4, 8], min_steps: 4, max_epochs: 1000}"
    shown = isoflop("run", study, "name=steps", "architectures={dense: {recipe: llama}}", grid)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "Branches from trunks saved" in shown.stdout
    folder = study.parent / "out" / "steps"
    table = pd.read_csv(folder / "table.csv")
    assert table["role"].value_counts().to_dict() == {"run": 9, "trunk": 3, "control": 3}
    assert set(table["status"]) == {"finished"}
    for path in (folder / "runs").glob("*/config.json"):
        run = json.loads(path.read_text())
        first = json.loads((path.parent / "journal.jsonl").read_text().splitlines()[1])
        trunk = run["train"]["trunk"]
        assert first["kind"] == "start"
        assert first["resumed_from"] == (trunk and trunk["step"])
    told = json.loads((folder / "fits" / "study.json").read_text())["trunks"]
    assert told["saved_flops"] > 0
    assert len(told["controls"]) == 3


@pytest.mark.slow
def test_the_run_that_a_law_recommends_is_trained_and_scores_its_forecast(study):
    wanted = ("-a", "dense", "--flops", "3e9", "--json")
    shown = isoflop("allocate", study, *wanted)
    assert shown.returncode == 0, shown.stderr
    [found] = json.loads(shown.stdout)
    trained = isoflop("run", found["study"], "grid.min_steps=4")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "Forecasts, frozen before their runs" in trained.stdout
    register = json.loads(isoflop("forecast", found["study"], "--json").stdout)
    assert register[0]["score"]["loss"] > 0
