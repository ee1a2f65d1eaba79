"""Installed into any folder, the command finds recipes, studies and its pages there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("analysis", "configs", "data", "launch", "models", "pipeline")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that ``pip install --target`` made of a copy of this tree."""
    copy, target = (tmp_path_factory.mktemp(name) for name in ("copy", "target"))
    for name in PARTS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(copy)], check=True, cwd=copy)
    return target


def files(folder: Path, *endings: str) -> set[str]:
    return {
        path.relative_to(folder).as_posix() for end in endings for path in folder.rglob(f"*{end}")
    }


@pytest.mark.slow
def test_all_files_are_installed(installed):
    for name in PARTS:
        kinds = (".py", ".yaml", ".html")
        assert files(installed / name, *kinds) == files(ROOT / name, *kinds), name


@pytest.mark.slow
def test_the_command_works_from_there(installed, tmp_path):
    def ask(*command: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(installed)}
        called = [sys.executable, "-P", *command]
        return subprocess.run(
            called, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    isoflop = str(installed / "bin" / "isoflop")
    assert ask(isoflop, "--version").startswith("isoflop ")
    told = ask(isoflop, "cost", "llama", "--width", "64", "--depth", "2", "--json")
    assert '"recipe": "llama"' in told
    code = "import pipeline.config as c; print(c.load_study('quickstart').name, c.__file__)"
    assert ask("-c", code).split() == ["quickstart", str(installed / "pipeline" / "config.py")]
