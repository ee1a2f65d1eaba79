"""The guides: their code runs, their commands exist, their studies load, their links lead somewhere."""

import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeline.cli import app
from pipeline.config import load_study

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^ *```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
IN_ORDER = ("reading-a-law", "adding-a-law")
"""Pages whose blocks of Python make one program."""
PLACES = ("analysis", "data", "launch", "models", "pipeline", "configs", "tests", "pyproject.toml")
QUOTED_ELSEWHERE = {"failed", "preempted", "diverged", "spike", "straggler", "allowed"}
"""Words of a journal, which stand in the code in other quotes or alone."""


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[tuple[str, str]]:
    """The title and the text of every block of a language."""
    return [(title, code) for kind, title, code in BLOCK.findall(text) if kind == language]


def commands() -> list[tuple[str, str]]:
    """Every line of a guide or of the README that calls the program, with the page it is on."""
    found = []
    for path in [*PAGES, ROOT / "README.md"]:
        for _, code in blocks(path.read_text(encoding="utf-8"), "bash"):
            for line in code.splitlines():
                told = line.partition("#")[0].strip().removeprefix(".venv/bin/")
                if told.startswith("isoflop "):
                    found.append((path.name, told))
    return found


@pytest.mark.parametrize("name", IN_ORDER)
def test_the_code_runs_as_it_stands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "docs"}
    for number, (_, code) in enumerate(blocks(page(name), "python"), 1):
        exec(compile(code, f"{name}.md, block {number}", "exec"), namespace)


@pytest.mark.parametrize(("where", "line"), commands(), ids=lambda given: given)
def test_a_command_is_one_that_there_is(where: str, line: str) -> None:
    command: Any = typer.main.get_command(app)
    arguments = shlex.split(line)[1:]
    while hasattr(command, "commands"):
        assert arguments[0] in command.commands, f"{where}: {line}"
        command = command.commands[arguments.pop(0)]
    command.make_context(command.name, arguments)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_study_is_one(path: Path, tmp_path: Path) -> None:
    for number, (title, code) in enumerate(blocks(path.read_text(encoding="utf-8"), "yaml")):
        if "architectures:" in code:
            study = tmp_path / (title or f"{number}.yaml")
            study.write_text(code)
            assert load_study(study).name


def test_what_is_quoted_of_the_program_is_what_it_says() -> None:
    said = [
        node.value
        for package in ("pipeline", "launch", "data", "analysis")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    rows = [line.split(" | ") for line in page("faults").splitlines() if line.startswith("| ")]
    quoted = {text for row in rows if len(row) == 3 for text in re.findall(r"`([^`]+)`", row[1])}
    quoted = {text for text in quoted if not text.startswith(("rank-", "rejected-", "isoflop"))}
    assert len(quoted) > 25
    unsaid = {text for text in quoted if not any(text in each for each in said)}
    assert unsaid <= QUOTED_ELSEWHERE


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project to which the guide's branch and recipe were added."""
    copy = tmp_path_factory.mktemp("project")
    for place in PLACES:
        source = ROOT / place
        take = shutil.copytree if source.is_dir() else shutil.copy
        take(source, copy / place)
    text = page("adding-an-architecture")
    for title, code in [*blocks(text, "python"), *blocks(text, "yaml")]:
        (copy / title).write_text(code)
    return copy


def run(folder: Path, *arguments: str, **environment: str) -> str:
    command = [sys.executable, *arguments]
    places = os.environ | {"PYTHONPATH": str(folder)} | environment
    done = subprocess.run(command, cwd=folder, env=places, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_new_architecture_trains(extended: Path) -> None:
    assert "step 40" in run(extended, "try_aft.py")


@pytest.mark.slow
def test_the_new_architecture_passes_the_tests_of_the_zoo(extended: Path) -> None:
    zoo = ["-m", "pytest", "tests/models/test_zoo.py", "-k", "aft", "-m", "not slow"]
    assert "passed" in run(extended, *zoo, GOLDEN="write")


@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="mkdocs is not installed")
def test_the_site_is_built_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    command = ["-m", "mkdocs", "build", "--strict", "-f", str(ROOT / "mkdocs.yml")]
    run(ROOT, *command, "-d", str(tmp_path / "site"), NO_MKDOCS_2_WARNING="1")
    built = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in PAGES} <= built
    start = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="https?://', start), "the site loads from elsewhere"


def test_the_readme_leads_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        paths = re.findall(
            r"\]\(([^)#:]+)\)|`((?:docs|configs|models|pipeline|tests)/[\w./-]+)`", text
        )
        missing = [path for pair in paths for path in pair if path and not (ROOT / path).exists()]
        assert missing == [], name
