"""The reference of keys is what the code reads, and editors are told the same."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.keys import reference, schema
from pipeline.yaml_file import CONFIGS

ROOT = Path(__file__).resolve().parents[2]
VALIDATOR = Draft202012Validator(schema())


def test_the_reference_is_current():
    assert (ROOT / "docs" / "keys.md").read_text() == reference(), "run `make keys`"


def test_every_key_is_described():
    sections = [schema(), *schema()["$defs"].values()]
    silent = [
        key
        for one in sections
        for key, node in one["properties"].items()
        if not node.get("description")
    ]
    assert silent == []


def test_every_mapping_has_its_section_and_every_link_leads_to_one():
    text = reference()
    heads = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert len(heads) == len(set(heads)) == len(schema()["$defs"]) + 1
    assert {"architectures.NAME", "architectures.NAME.train", "parallel.larger[]"} <= set(heads)
    anchors = {
        "".join(c for c in head.lower().replace(" ", "-") if c.isalnum() or c in "-_")
        for head in heads
    }
    linked = {part.partition(")")[0] for part in text.split("](#")[1:]}
    assert linked <= anchors


@pytest.mark.parametrize("path", sorted((CONFIGS / "studies").glob("*.yaml")), ids=lambda p: p.stem)
def test_an_editor_finds_nothing_wrong_with_our_studies(path):
    VALIDATOR.validate(YAML(typ="safe", pure=True).load(path))


def test_an_editor_finds_what_is_wrong():
    study = YAML(typ="safe", pure=True).load(CONFIGS / "studies" / "optimizers.yaml")
    study["architectures"]["muon"] |= {
        "rule": {"name": "measured", "study": "probe"},
        "override": {"tied": True},
    }
    VALIDATOR.validate(study)
    for wrong in ({"bugdet": 1}, {"train": {"optimizer": "lion"}}, {"grid": {"type": "ladder"}}):
        assert not VALIDATOR.is_valid(study | wrong)


def test_the_command_prints_the_schema():
    shown = CliRunner().invoke(app, ["schema"])
    assert json.loads(shown.output) == schema()
