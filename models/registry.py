"""Which branches and position schemes there are and what options they take, read from their source.

Reading takes milliseconds where importing torch takes seconds: a recipe with a fault is refused at
once, and a class is imported when a model is built of it. A branch is a class
`class Some(Branch, name="some")` in a file of `models.mixers` or `models.channels`, its options the
keyword-only parameters of its constructor; a scheme is a dataclass that `SCHEMES` of
`models.positions` names, its options the fields.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from models import schema
from models.errors import Key, RecipeError
from models.objective import OBJECTIVES
from models.schema import REQUIRED, Schema

PACKAGE = Path(__file__).parent
TYPES = {**vars(builtins), **vars(typing), "Mapping": Mapping}


@dataclass(frozen=True)
class Entry:
    """A class that can be imported, and its options: name to (annotation, default)."""

    module: str
    name: str
    options: Schema

    def load(self) -> Any:
        """The class itself (imports torch)."""
        return getattr(importlib.import_module(self.module), self.name)


@cache
def branches() -> dict[str, Entry]:
    """Every branch by name."""
    found = {}
    for module, tree in _modules():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                for keyword in node.keywords:
                    if keyword.arg == "name":
                        options = _parameters(node)
                        found[ast.literal_eval(keyword.value)] = Entry(module, node.name, options)
    return dict(sorted(found.items()))


@cache
def schemes() -> dict[str, Entry]:
    """Every position scheme by name."""
    module, tree = _module(PACKAGE / "positions.py")
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "SCHEMES"
    )
    assert isinstance(table, ast.Dict)
    return {
        ast.literal_eval(key): Entry(module, name, _fields(classes[name]))
        for key, name in ((key, ast.unparse(value)) for key, value in _items(table))
    }


def positions(value: object, key: Key) -> dict[str, Any]:
    """`"rope"` or `{type: rope, theta: …}` with every default filled in."""
    known = {name: entry.options for name, entry in schemes().items()}
    return _typed(value, known, key, "position scheme")


def objective(value: object, key: Key) -> dict[str, Any]:
    """`"masked"` or `{type: masked, probability: …}` with every default filled in."""
    return _typed(value, OBJECTIVES, key, "objective")


def _typed(value: object, known: Mapping[str, Any], key: Key, what: str) -> dict[str, Any]:
    options = {"type": value} if isinstance(value, str) else value
    if not isinstance(options, Mapping):
        article = "an" if what[0] in "aeiou" else "a"
        raise RecipeError(key, value, known, f"not {article} {what}")
    kind: Any = options.get("type")
    if kind not in known:
        raise RecipeError((*key, "type"), kind, known, f"unknown {what}")
    rest = {name: item for name, item in options.items() if name != "type"}
    return {"type": kind, **schema.check(rest, known[kind], key)}


def _items(table: ast.Dict) -> Iterator[tuple[ast.expr, ast.expr]]:
    for key, value in zip(table.keys, table.values, strict=True):
        assert key is not None
        yield key, value


def _parameters(branch: ast.ClassDef) -> Schema:
    for node in branch.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            names, defaults = node.args.kwonlyargs, node.args.kw_defaults
            return {
                name.arg: (_annotation(name.annotation), _default(default))
                for name, default in zip(names, defaults, strict=True)
            }
    return {}


def _fields(scheme: ast.ClassDef) -> Schema:
    return {
        ast.unparse(node.target): (_annotation(node.annotation), _default(node.value))
        for node in scheme.body
        if isinstance(node, ast.AnnAssign)
    }


def _annotation(node: ast.expr | None) -> Any:
    assert node is not None
    return eval(ast.unparse(node), {**TYPES, **_aliases()})


def _default(node: ast.expr | None) -> Any:
    return REQUIRED if node is None else ast.literal_eval(node)


@cache
def _aliases() -> dict[str, Any]:
    """Names such as `Activation` that stand for the choices of a Literal."""
    return {
        ast.unparse(node.targets[0]): eval(ast.unparse(node.value), dict(TYPES))
        for _, tree in _modules()
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal[")
    }


@cache
def _modules() -> tuple[tuple[str, ast.Module], ...]:
    paths = [path for name in ("mixers", "channels") for path in (PACKAGE / name).glob("*.py")]
    return tuple(_module(path) for path in sorted(paths))


def _module(path: Path) -> tuple[str, ast.Module]:
    name = ".".join(("models", *path.relative_to(PACKAGE).with_suffix("").parts))
    return name, ast.parse(path.read_bytes(), str(path))
