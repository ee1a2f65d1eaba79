"""docs/folder.md names every column of the table, every line of a journal and every exit code."""

import re
from dataclasses import fields
from pathlib import Path

from launch.journal import LINES, Attempt, End
from launch.tail import Tail
from pipeline.errors import BusyError, IsoflopError, LostLeadError
from pipeline.runs import PASSED_ON, row

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "folder.md").read_text()
FILES, TABLE, JOURNAL, EXITS = TEXT.split("\n## ")[1:]


def named(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_every_column_of_the_table_is_told(run_config):
    columns = {*row(run_config), *Tail().columns(), *PASSED_ON}
    assert columns <= named(TABLE)


def test_every_kind_of_line_is_told_with_all_that_is_in_it():
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", JOURNAL, re.MULTILINE))
    lines = {kind: line for kind, (_, line) in LINES.items()} | {"start": Attempt, "end": End}
    assert set(rows) == {*lines, "claim", "system"}
    for kind, line in lines.items():
        wanted = {field.name for field in fields(line)} - {"step", "time", "attempt"}
        assert wanted <= named(rows[kind]), kind


def test_every_exit_code_is_told():
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", EXITS, re.MULTILINE)}
    assert codes == {0, 1, 130} | {e.exit_code for e in (IsoflopError, BusyError, LostLeadError)}


def test_every_file_that_the_code_names_is_told():
    package = Path(__file__).resolve().parents[2] / "pipeline"
    code = "\n".join(path.read_text() for path in package.glob("*.py"))
    written = set(re.findall(r"study\.folder / \"([\w.]+)\"", code))
    told = " ".join(named(FILES))
    assert not {name for name in written if name not in told}
