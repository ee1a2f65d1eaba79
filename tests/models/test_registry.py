"""What is read from the source is what the classes say."""

import subprocess
import sys

import pytest

from models import registry, schema
from models.limits import LIMITS


@pytest.mark.parametrize("name", registry.branches())
def test_options_read_from_a_branch_are_its_constructor_s(name: str) -> None:
    entry = registry.branches()[name]
    assert entry.options == schema.parameters(entry.load())


@pytest.mark.parametrize("name", registry.schemes())
def test_options_read_from_a_scheme_are_its_fields(name: str) -> None:
    entry = registry.schemes()[name]
    assert entry.options == schema.parameters(entry.load())


def test_limits_are_of_branches_that_there_are() -> None:
    assert set(LIMITS) <= set(registry.branches())


def test_a_recipe_is_refused_without_torch() -> None:
    code = """
import sys
from models import Recipe, RecipeError
recipe = Recipe.from_dict({"pattern": "attention+mlp", "branches": {"attention": {"n_heads": 7}}})
try:
    recipe.at(width=64, n_layers=2, vocab_size=512)
except RecipeError as error:
    assert "heads do not divide the width 64" in str(error)
    assert "torch" not in sys.modules
else:
    raise AssertionError("not refused")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
