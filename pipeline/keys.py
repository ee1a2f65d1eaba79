"""Every key of a study: as a JSON schema for editors, and as the pages of a reference.

``python -m pipeline.keys > docs/keys.md`` writes the reference from the schema, and the schema is
that of the models which read a study: neither can say what is not so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from pipeline.config import Study

Schema = dict[str, Any]

INTRODUCTION = """\
# Keys of a study

Written from the code by `make keys`. A study is one YAML file; a command that takes `KEY=VALUE`
takes any of these keys, dotted: `train.clip=0.5`. `isoflop schema > study.schema.json` tells an
editor the same: with

```yaml
# yaml-language-server: $schema=study.schema.json
```

as the first line of a study it completes keys and underlines what is wrong.
"""
OVERRIDE = {
    "type": "object",
    "description": "what this study changes in the recipe, merged into it key by key",
    "default": {},
}
NAMED = {"type": "string", "description": "a file, or its name in configs"}


def schema() -> Schema:
    """The JSON schema of a study as it is written: names of files stand for what these hold."""
    found = Study.model_json_schema()
    parts = found["$defs"]
    architecture, measured = parts["Architecture"]["properties"], parts["MeasuredRule"]
    architecture["recipe"] = _or_named(architecture["recipe"])
    architecture["override"] = OVERRIDE
    for node in parts["OwnTraining"]["properties"].values():
        del node["default"]  # it is the study's
    for owner in (found, parts["MixturePart"]):
        owner["properties"]["corpus"] = _or_named(owner["properties"]["corpus"])
    measured["required"] = ["name", "study"]
    for node in _nodes(found):
        if "$ref" in node:
            node.pop("default", None)
        node.pop("title", None)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study of isoflop",
    }
    return head | found | {"description": "One scaling study."}


def reference() -> str:
    """The keys as Markdown: a section for each mapping, named by where it stands."""
    found = schema()
    sections = _sections(found)
    order = {name: position for position, name in enumerate(["study", *found["properties"]])}
    sorted_ = sorted(sections.items(), key=lambda item: order[re.split(r"[.,`]", item[1])[0]])
    pages = [_page(title, _definition(found, ref), sections) for ref, title in sorted_]
    return "\n".join([INTRODUCTION, *pages])


def _or_named(node: Schema) -> Schema:
    described = {"description": node["description"]} if "description" in node else {}
    inner = {key: value for key, value in node.items() if key != "description"}
    return {"anyOf": [NAMED, inner]} | described


def _nodes(node: Any) -> Iterator[Schema]:
    """Every mapping of the schema that stands for a type."""
    if isinstance(node, dict):
        if not any(isinstance(value, dict) and key == "properties" for key, value in node.items()):
            yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def _definition(found: Schema, ref: str) -> Schema:
    definition: Schema = found["$defs"][ref.rpartition("/")[2]] if ref else found
    return definition


def _sections(found: Schema) -> dict[str, str]:
    """Each mapping by its reference, and the key that it stands under, the nearest to the top."""
    titles, queue = {"": "study"}, [""]
    for ref in queue:
        prefix = f"{titles[ref].partition(',')[0]}." if ref else ""
        for key, node in _definition(found, ref)["properties"].items():
            for target, suffix in _references(node):
                if target not in titles:
                    titles[target] = f"{prefix}{key}{suffix}{_tag(found, target)}"
                    queue.append(target)
    return titles


def _references(node: Schema) -> Iterator[tuple[str, str]]:
    if "$ref" in node:
        yield node["$ref"], ""
    for one in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _references(one)
    for inner, suffix in ((node.get("items"), "[]"), (_values(node), ".NAME")):
        if isinstance(inner, dict):
            yield from ((ref, suffix + more) for ref, more in _references(inner))


def _values(node: Schema) -> Schema | None:
    """What a mapping of names of the user's choice holds."""
    return next(iter(node.get("patternProperties", {}).values()), None)


def _tag(found: Schema, ref: str) -> str:
    """What tells a mapping from others in its place: its kind, type or name."""
    for key, node in _definition(found, ref)["properties"].items():
        if "const" in node:
            return f", {key} {node['const']}"
    return ", several" if ref.endswith("MixtureConfig") else ""


def _page(title: str, definition: Schema, sections: dict[str, str]) -> str:
    required = definition.get("required", [])
    keys = sorted(definition["properties"].items(), key=lambda item: "const" not in item[1])
    rows = [
        f"| `{key}` | {_type(node, sections)} | {_default(node, key in required)} | "
        f"{_cell(node['description'])} |"
        for key, node in keys
    ]
    head = ["| key | type | default | |", "|---|---|---|---|"]
    told = re.sub(r"``(.+?)``", r"`\1`", definition.get("description", ""))
    return "\n".join([f"## {title}", "", told, "", *head, *rows, ""])


def _type(node: Schema, sections: dict[str, str]) -> str:
    if "$ref" in node:
        title = sections[node["$ref"]]
        return f"[{title.rpartition(' ')[2]}](#{_anchor(title)})"
    if options := node.get("anyOf") or node.get("oneOf"):
        told = dict.fromkeys(_type(one, sections) for one in options)
        return ", ".join(told)
    if "const" in node or "enum" in node:
        values = node.get("enum", [node.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    kind: str = node.get("type", "anything")
    if kind == "array":
        return f"list of {_type(node['items'], sections)}"
    if (values := _values(node)) is not None:
        return f"a mapping of names to {_type(values, sections)}"
    names: dict[str, str] = {
        "string": "text",
        "null": "null",
        "object": "a mapping",
        "boolean": "true, false",
    }
    limits = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    bounds = [f"{sign} {node[key]}" for key, sign in limits.items() if key in node]
    return " ".join([names.get(kind, kind), " and ".join(bounds)]).strip()


def _default(node: Schema, is_required: bool) -> str:
    if is_required:
        return "required"
    if "default" not in node:
        return ""
    given = node["default"]
    told = "null" if given is None else str(given).lower() if isinstance(given, bool) else given
    return f"`{told}`" if told != "" else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _anchor(title: str) -> str:
    """As the guides' site and GitHub make them of headings."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


if __name__ == "__main__":
    sys.stdout.write(reference())
