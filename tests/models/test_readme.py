"""The table of models/README.md says what the recipes are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.convert import families
from models.engines.select import available

README = Path(__file__).parents[2] / "models" / "README.md"


def rows() -> dict[str, list[str]]:
    lines = [line for line in README.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return {row[0]: row for row in cells if len(row) == 5 and row[0] != "recipe"}


def test_every_recipe_has_its_row(zoo: Any) -> None:
    assert sorted(rows()) == zoo.names


def test_patterns_are_the_recipes(zoo: Any) -> None:
    for name, (_, pattern, *_rest) in rows().items():
        recipe = zoo.recipe_of(name)
        written = f"{recipe.prefix} ⟩ {recipe.pattern}" if recipe.prefix else recipe.pattern
        if recipe.encoder is not None:
            written = f"{recipe.encoder.pattern} → {written}"
        assert pattern == f"`{written}`"


def test_engines_and_parities_exist() -> None:
    engines = {*available(), "loop"}
    for name, (*_, engine, parity) in rows().items():
        assert set(engine.split(", ")) <= engines, name
        assert parity == "–" or parity.startswith("torch.nn.") or parity in families(), name
    assert set(families()) == {parity for *_, parity in rows().values()} & set(families())
