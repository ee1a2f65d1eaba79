"""The blocks of docs/studies.md are the grids of our examples, and its table names every type."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import load_study
from pipeline.settings import ParallelSettings
from pipeline.yaml_file import CONFIGS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "studies.md").read_text()
BLOCKS = [
    YAML(typ="safe").load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
]
EXAMPLES = {
    "isoflop": "replicates",
    "ladder": "ladder",
    "probe": "probe",
    "moe": "experts",
    "hybrid": "hybrid_ratio",
    "repeats": "repeats",
    "adaptive": "adaptive",
}


@pytest.mark.parametrize("block", [b for b in BLOCKS if "type" in b], ids=lambda b: b["type"])
def test_a_grid_is_that_of_its_example(block):
    study = load_study(CONFIGS / "studies" / f"{EXAMPLES[block['type']]}.yaml")
    assert type(study.grid).model_validate(block) == study.grid


def test_every_type_has_its_row_and_its_block():
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert rows == [block["type"] for block in BLOCKS if "type" in block] == list(EXAMPLES)


def test_the_settings_of_larger_runs_are_as_told():
    [block] = [block for block in BLOCKS if "larger" in block]
    settings = ParallelSettings.model_validate(block)
    found = [settings.at(size) for size in (1e6, 1e8, 1e9)]
    assert [(s.ranks, s.gpus_per_rank) for s in found] == [(1, 0.25), (1, 1), (8, 1)]


def test_every_command_that_is_named_is_there():
    named = set(re.findall(r"isoflop ([a-z]+)", TEXT))
    for command in named:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command
