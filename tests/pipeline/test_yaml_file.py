"""YAML with positions: every key can be found again, nothing is read loosely."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.yaml_file import read_yaml


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return _write


def test_scientific_notation_is_a_number_and_on_is_a_word(write):
    values = read_yaml(write("a: 3e15\nb: 1e-3\nc: on\nd: [1, 2.5]\n")).values
    assert values == {"a": 3e15, "b": 1e-3, "c": "on", "d": [1, 2.5]}
    assert [type(v) for v in values.values()] == [float, float, str, list]


def test_every_key_is_found_where_it_stands(write):
    file = read_yaml(write("a: 1\nb:\n  c: 2\n  d: [5,\n    6]\n"))
    assert [file.where(key).split(":")[1:] for key in [("a",), ("b", "c"), ("b", "d", 1)]] == [
        ["1", "1"],
        ["3", "3"],
        ["5", "5"],
    ]


def test_a_missing_key_points_to_its_parent(write):
    assert read_yaml(write("a: 1\nb:\n  c: 2\n")).where(("b", "zzz")).endswith(":2:1")


def test_an_override_makes_keys_and_is_named_as_their_place(write):
    file = read_yaml(write("a: {b: 1}\n"), ["a.b=2.5", "x.y=[1, 2]"])
    assert file.values == {"a": {"b": 2.5}, "x": {"y": [1, 2]}}
    assert file.where(("x", "y", 0)) == "override 'x.y=[1, 2]'"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2\n", "study.yaml:2:1: key given twice"),
        ("a: [1\n", "not valid YAML"),
        ("", "given nothing, expected a mapping"),
        ("- 1\n", "expected a mapping"),
        ("a: !!python/object/apply:os.system ['true']\n", None),
    ],
)
def test_what_is_not_a_mapping_of_keys_is_refused(write, text, told):
    if told is None:
        assert read_yaml(write(text)).values == {"a": ["true"]}
    else:
        with pytest.raises(ConfigError, match=told.replace("[", r"\[")):
            read_yaml(write(text))


def test_a_missing_file_and_a_bad_override_are_one_line(tmp_path, write):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="expected key=value"):
        read_yaml(write("a: 1\n"), ["train.steps"])
    with pytest.raises(ConfigError, match="'a' is a value"):
        read_yaml(write("a: 1\n"), ["a.b=1"])
