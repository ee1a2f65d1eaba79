"""A pydantic error as one line a fault: place, key, given, allowed, the nearest known name."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipeline.errors import nearest

Key = tuple[str | int, ...]


def describe(
    error: ValidationError,
    model: type[BaseModel],
    where: Callable[[Key], str],
    known: Container[Key] = (),
) -> list[str]:
    """Every fault of ``error`` but those of ``known`` keys; ``where`` gives file and line."""
    lines = []
    for fault in error.errors(include_url=False):
        key, owner = _resolve(fault["loc"], model)
        if key not in known:
            lines.append(_line(fault, key, owner, where))
    return lines


def dotted(key: Key) -> str:
    """``grid.budgets.1``; the study itself has no key."""
    return ".".join(map(str, key)) or "study"


def _line(fault: Any, key: Key, owner: type[BaseModel] | None, where: Callable[[Key], str]) -> str:
    context, given = fault.get("ctx", {}), fault["input"]
    inner = context.get("error")
    key = (*key, *getattr(inner, "key", ()))
    if fault["type"] == "union_tag_invalid":
        key, given = (*key, context["discriminator"].strip("'")), context["tag"]
    silent = ("missing", "value_error", "extra_forbidden")
    shown = "" if fault["type"] in silent else f"given {_show(given)}, "
    return f"{where(key)}: {dotted(key)}: {shown}{_allowed(fault, owner, key, given)}"


def _allowed(fault: Any, owner: type[BaseModel] | None, key: Key, given: Any) -> str:
    kind, message, context = fault["type"], str(fault["msg"]), fault.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        names = sorted(owner.model_fields) if owner else []
        return f"unknown key; known here: {', '.join(names)}{nearest(str(key[-1]), names)}"
    if kind == "missing":
        return "missing; this key is required"
    if kind in ("literal_error", "union_tag_invalid"):
        expected = str(context.get("expected") or context.get("expected_tags"))
        names = expected.replace("'", "").replace(" or ", ", ").split(", ")
        return f"allowed: {expected}{nearest(str(given), names)}"
    if kind == "string_pattern_mismatch":
        return "allowed: 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit"
    return message[0].lower() + message[1:]


def _resolve(loc: Key, model: type[BaseModel]) -> tuple[Key, type[BaseModel] | None]:
    """The key as the user wrote it, without pydantic's union tags, and the model it stands in."""
    key: list[str | int] = []
    owner: Any = model
    holder: type[BaseModel] | None = model
    for part in loc:
        if part == "[key]":
            break
        if isinstance(owner, type) and issubclass(owner, BaseModel):
            holder = owner
            field = owner.model_fields.get(str(part))
            owner = field.annotation if field else None
            key.append(part)
        elif (tagged := _tagged(owner, part)) is not None:
            owner = tagged
        elif (item := _item(owner)) is not None:
            owner = item
            holder = None
            key.append(part)
        elif not _is_type_tag(part):
            key.append(part)
    return tuple(key), holder


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]


def _tagged(annotation: Any, tag: str | int) -> type[BaseModel] | None:
    """The member of a union that pydantic's location calls ``tag``."""
    if getattr(annotation, "__origin__", None) in (dict, list):
        return None
    for model in _models(annotation):
        names = {model.__name__}
        for field in model.model_fields.values():
            names.update(
                str(value) for value in get_args(field.annotation) if isinstance(value, str)
            )
        if tag in names:
            return model
    return None


def _item(annotation: Any) -> Any:
    """What a dict or list (perhaps annotated, perhaps optional) holds."""
    origin, arguments = getattr(annotation, "__origin__", None), get_args(annotation)
    if origin in (dict, list):
        return arguments[-1]
    return next((found for part in arguments if (found := _item(part)) is not None), None)


def _is_type_tag(part: str | int) -> bool:
    """Names that pydantic puts into a location for the members of a union of plain types."""
    return isinstance(part, str) and (
        part in ("int", "float", "str", "bool", "none") or "[" in part
    )


def _show(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
