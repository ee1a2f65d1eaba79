"""A callable's keyword-only parameters as the schema of a mapping."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from models.errors import Key, RecipeError

REQUIRED = inspect.Parameter.empty
Schema = dict[str, tuple[Any, Any]]
"""Name to (annotation, default, or REQUIRED)."""


@cache
def parameters(target: Callable[..., Any]) -> Schema:
    """The schema that every keyword-only parameter of a callable makes."""
    function = vars(target).get("__init__") if isinstance(target, type) else target
    assert callable(function)
    hints = get_type_hints(function)
    return {
        name: (hints[name], parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def check(options: object, target: Callable[..., Any] | Schema, key: Key = ()) -> dict[str, Any]:
    """`options` with every default filled in; RecipeError on an unknown key or a wrong type."""
    schema = target if isinstance(target, dict) else parameters(target)
    if not isinstance(options, Mapping):
        raise RecipeError(key, options, "a mapping of " + ", ".join(schema), "not a mapping")
    for name, value in options.items():
        if name not in schema:
            raise RecipeError((*key, str(name)), name, schema, "unknown key")
        annotation = schema[name][0]
        if not matches(value, annotation):
            raise RecipeError((*key, name), value, describe(annotation), "wrong value")
    resolved = {}
    for name, (annotation, default) in schema.items():
        if name not in options and default is REQUIRED:
            raise RecipeError((*key, name), None, describe(annotation), "missing key")
        resolved[name] = options.get(name, default)
    return resolved


def matches(value: object, annotation: Any) -> bool:
    """Whether a value read from YAML or JSON fits an annotation (an int is a float, a bool not)."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(matches(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, list | tuple) and all(matches(item, args[0]) for item in value)
    if origin is not None:
        return isinstance(value, origin)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def describe(annotation: Any) -> Any:
    """An annotation in words for an error: the choices of a Literal, or the types' names."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return args
    if origin in (Union, types.UnionType):
        parts = [describe(arg) for arg in args]
        return " or ".join(p if isinstance(p, str) else ", ".join(map(str, p)) for p in parts)
    if origin is tuple:
        return f"a list of {describe(args[0])}"
    if origin is not None:
        return "a mapping" if issubclass(origin, Mapping) else str(origin)
    if annotation is type(None):
        return "null"
    return {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}.get(
        annotation, str(annotation)
    )
