"""Branches and position schemes by name. A class in a file of its own registers by existing."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from models import schema
from models.branch import Branch
from models.errors import Key, RecipeError
from models.positions import SCHEMES


@cache
def branches() -> dict[str, type[Branch]]:
    """Every branch of `models.mixers` and `models.channels`."""
    for folder in ("models.mixers", "models.channels"):
        for module in pkgutil.iter_modules(importlib.import_module(folder).__path__):
            importlib.import_module(f"{folder}.{module.name}")
    return dict(sorted(Branch.registered.items()))


def positions(value: object, key: Key) -> dict[str, Any]:
    """`"rope"` or `{type: rope, theta: …}` with every default filled in."""
    options = {"type": value} if isinstance(value, str) else value
    if not isinstance(options, Mapping):
        raise RecipeError(key, value, SCHEMES, "not a position scheme")
    kind = options.get("type")
    if kind not in SCHEMES:
        raise RecipeError((*key, "type"), kind, SCHEMES, "unknown position scheme")
    rest = {name: item for name, item in options.items() if name != "type"}
    return {"type": kind, **schema.check(rest, SCHEMES[kind], key)}
