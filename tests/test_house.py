"""The rules of the house: imports point one way, a vendor has one home, nothing heavy too early."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("analysis", "data", "launch", "models", "pipeline")
MAY_IMPORT = {
    "models": set(),
    "data": set(),
    "analysis": set(),
    "launch": {"models", "data"},
    "pipeline": {"models", "data", "launch", "analysis"},
}
VENDOR_HOMES = {
    "deepspeed": ("launch/engine.py",),
    "mlflow": ("pipeline/tracking.py", "pipeline/law_model.py"),
    "ray": (
        "launch/gang.py",
        "launch/cluster.py",
        "launch/jobs.py",
        "launch/ray_start.py",
        "data/tokenize.py",
    ),
    "flash_attn": ("models/engines/",),
    "mamba_ssm": ("models/engines/",),
    "causal_conv1d": ("models/engines/",),
    "transformers": ("models/convert/",),
    "typer": ("pipeline/commands/",),
    "ruamel": ("pipeline/yaml_file.py",),
}
HEAVY = {
    "torch",
    "ray",
    "deepspeed",
    "mlflow",
    "datasets",
    "transformers",
    "scipy",
    "pandas",
    "matplotlib",
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Every top-level name that a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_packages_are_those_of_this_repository():
    for name in PACKAGES:
        assert Path(importlib.import_module(name).__file__).is_relative_to(ROOT)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    others = set(PACKAGES) - MAY_IMPORT[package] - {package}
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in (ROOT / package).rglob("*.py")
        if (found := imported(path) & others)
    }
    assert not wrong


@pytest.mark.parametrize("vendor", VENDOR_HOMES)
def test_a_vendor_has_one_home(vendor):
    homes = VENDOR_HOMES[vendor]
    users = [str(path.relative_to(ROOT)) for path in sources() if vendor in imported(path)]
    assert [user for user in users if not user.startswith(homes)] == []


@pytest.mark.parametrize(
    "code",
    [
        "import analysis",
        "import pipeline.cli",
        "from pipeline.cli import app; app(['--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    heavy = HEAVY - ({"scipy", "pandas"} if code == "import analysis" else set())
    script = f"{code}\nimport sys\nprint('LOADED', sorted(set(sys.modules) & {heavy!r}))"
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout.splitlines()[-1] == "LOADED []"


def test_models_need_torch_alone():
    """The model benchmarks run on a machine that has torch and nothing else."""
    allowed = {"torch", "models", "flash_attn", "mamba_ssm", "causal_conv1d"} | set(
        sys.stdlib_module_names
    )
    for path in (ROOT / "models").rglob("*.py"):
        if "convert" not in path.parts:
            assert imported(path) <= allowed, path
