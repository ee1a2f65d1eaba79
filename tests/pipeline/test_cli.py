"""The command line: help with examples, mistakes in one message, tracebacks on request alone."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import __version__
from pipeline.cli import app

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = sorted(command.callback.__name__ for command in app.registered_commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: isoflop {command}" in shown.output


@pytest.mark.parametrize("command", ["run", "plan", "fit", "status", "ui"])
def test_an_unknown_study_is_one_message_with_the_known_ones(run, command):
    code, out, err = run(command, "quickstrat")
    assert code == 2
    assert out == ""
    assert "no study 'quickstrat'" in err
    assert "did you mean 'quickstart'" in err
    assert "Traceback" not in err


def test_a_study_that_was_never_run_says_what_to_do(run, tmp_path):
    code, _, err = run("status", "quickstart", f"output={tmp_path}")
    assert (code, "isoflop run" in err, "Traceback" in err) == (2, True, False)


def test_debug_shows_the_traceback():
    command = [str(Path(sys.executable).with_name("isoflop")), "status", "quickstrat", "--debug"]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode != 0
    assert "Traceback" in shown.stderr


def test_a_fault_of_ours_tells_how_to_see_more_and_a_users_does_not(run, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr("pipeline.config.load_study", broken)
    code, _, err = run("plan", "quickstart")
    assert (code, "ValueError: operands" in err, "--debug for the traceback" in err) == (
        2,
        True,
        True,
    )
    monkeypatch.undo()
    assert "--debug" not in CliRunner().invoke(app, ["plan", "quickstrat"]).output


def test_the_version_is_told_once(run):
    code, out, _ = run("--version")
    assert (code, out) == (0, f"isoflop {__version__}\n")
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_a_bad_budget_of_a_prediction_is_refused(run, tmp_path):
    code, _, err = run("predict", "quickstart", "--flops", "-1", f"output={tmp_path}")
    assert code == 2
    assert "--flops: given -1.0, allowed: a positive finite number" in err


def test_doctor_prints_json_and_nothing_else(run):
    command = [str(Path(sys.executable).with_name("isoflop")), "doctor", "--json"]
    findings = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    assert findings["packages"]["torch"]
    assert all(rate > 0 for rate in findings["matmul_flops_per_second"].values())


def test_cost_is_exact_and_takes_overrides(run):
    code, out, _ = run(
        "cost",
        "llama",
        "branches.attention.n_kv_heads=2",
        "--width",
        "64",
        "--depth",
        "4",
        "--vocabulary",
        "1024",
        "--sequence-length",
        "128",
        "--json",
    )
    found = json.loads(out)
    assert code == 0
    assert (
        found["params"]["total"]
        == found["params"]["embedding"] + found["params"]["head"] + found["params"]["trunk"]
    )
    assert found["training_flops_per_token"] == 3 * found["flops_per_token"]["total"]


def test_a_size_is_the_nearest_shape_of_the_rule(run):
    code, out, _ = run("cost", "llama", "--params", "7e6", "--vocabulary", "1024", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["params"]["total"] == pytest.approx(7e6 * (1 + found["asked"]["error"]))
    assert abs(found["asked"]["error"]) < 0.2
    code, _, err = run("cost", "llama", "--params", "7e6", "--width", "64")
    assert code == 2
    assert "given --width and --params; allowed: --width, --depth or both" in err


def test_cost_of_a_shape_that_cannot_be_is_refused_with_its_place(run):
    code, _, err = run(
        "cost", "llama", "branches.attention.n_heads=3", "--width", "64", "--depth", "4"
    )
    assert code == 2
    assert "override 'branches.attention.n_heads=3'" in err
    assert "allowed: 1, 2, 4" in err


def test_any_csv_is_fitted(run, tmp_path):
    rows = ["size,D,loss"]
    for size in (1e6, 4e6, 1.6e7, 6.4e7):
        rows += [
            f"{size},{d},{1.7 + 400 / size**0.34 + 410 / d**0.28}" for d in (2e7, 1e8, 5e8, 2e9)
        ]
    (tmp_path / "runs.csv").write_text("\n".join(rows))
    code, out, _ = run(
        "fit",
        str(tmp_path / "runs.csv"),
        "--column",
        "params=size",
        "--column",
        "tokens=D",
        "--resamples",
        "100",
        "--json",
    )
    found = json.loads(out)
    assert code == 0
    assert found["parameters"]["alpha"] == pytest.approx(0.34, rel=1e-4)
    assert set(found) >= {
        "law",
        "parameters",
        "intervals",
        "derived",
        "warnings",
        "excluded",
        "objective",
        "identifiable",
    }


def test_a_csv_without_a_column_is_refused(run, tmp_path):
    (tmp_path / "runs.csv").write_text("params,tokens\n1,2\n")
    code, out, err = run("fit", str(tmp_path / "runs.csv"))
    assert (code, out) == (2, "")
    assert "loss" in err
