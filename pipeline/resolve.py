"""A study's file with the files that it names: recipes, corpora and measured rules, read in.

What fails is kept by its key, so that all faults are told at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from pipeline.errors import ConfigError, nearest
from pipeline.faults import dotted
from pipeline.yaml_file import Key, YamlFile, find, read_yaml


class Resolver:
    """Replaces file names in a study by what the files hold, and knows where every key stands."""

    def __init__(self, file: YamlFile):
        self.file = file
        self.sources: dict[Key, YamlFile] = {}
        self.broken: dict[Key, str] = {}

    def resolve(self) -> dict[str, Any]:
        """The study's values with every file name replaced; a file that fails is in ``broken``."""
        values = dict(self.file.values)
        self._include(values, "corpus", "corpora", ())
        if isinstance(corpus := values.get("corpus"), dict) and isinstance(
            parts := corpus.get("parts"), list
        ):
            values["corpus"] = {**corpus, "parts": [self._part(n, p) for n, p in enumerate(parts)]}
        if isinstance(given := values.get("architectures"), dict):
            resolved = {name: self._architecture(name, one) for name, one in given.items()}
            values["architectures"] = resolved
        self._measured_rules(values)
        return values

    def where(self, key: Key) -> str:
        """Where ``key`` of the resolved study was written: in it, or in a file that it names."""
        if key[:1] == ("architectures",) and key[2:3] == ("recipe",):
            override = (*key[:2], "override", *key[3:])
            if self.file.holds(override):
                return self.file.where(override)
        for length in range(len(key), 0, -1):
            if (source := self.sources.get(key[:length])) is not None:
                return source.where(key[length:])
        return self.file.where(key)

    def _architecture(self, name: Any, given: Any) -> Any:
        """``recipe: llama`` with ``override: {...}`` becomes one merged mapping."""
        if not isinstance(given, dict):
            return given
        given = dict(given)
        self._include(given, "recipe", "models", ("architectures", name))
        if isinstance(given.get("recipe"), dict) and isinstance(given.get("override"), dict):
            given["recipe"] = merge(given["recipe"], given.pop("override"))
        return given

    def _part(self, number: int, given: Any) -> Any:
        """``corpus: c4`` in a part of a mixture becomes what that file holds."""
        if not isinstance(given, dict):
            return given
        given = dict(given)
        self._include(given, "corpus", "corpora", ("corpus", "parts", number))
        return given

    def _measured_rules(self, values: dict[str, Any]) -> None:
        """``rule: {name: measured, study: probes}`` with the laws that those probes gave: of the
        study, and of each architecture with probes of its own."""
        output = root(str(values.get("output", "studies")))
        shared, architectures = values.get("rule"), values.get("architectures")
        if _is_to_read(shared):
            values["rule"] = self._measured(shared, ("rule",), output)
        for name, one in architectures.items() if isinstance(architectures, dict) else ():
            if not isinstance(one, dict):
                continue
            if _is_to_read(own := one.get("rule")):
                one["rule"] = self._measured(own, ("architectures", name, "rule"), output, name)
            elif own is None and _is_to_read(shared):
                found = self._measured(shared, ("rule",), output, name)
                if found.get("architecture") == name:
                    one["rule"] = found

    def _measured(
        self, rule: dict[str, Any], key: Key, output: Path, name: str | None = None
    ) -> dict[str, Any]:
        """The rule with the laws of the architecture that it names, or of ``name``, or of all."""
        path = output / str(rule.get("study")) / "rule.json"
        try:
            laws = json.loads(path.read_text())
            each = {one["architecture"]: one for one in laws.get("by_architecture", [])}
            named = rule.get("architecture")
            whose = named if named is not None else name
            chosen = each.get(whose, laws)
            found = {law: chosen[law] for law in ("learning_rate", "batch_tokens")}
        except (OSError, ValueError, KeyError, TypeError):
            key = (*key, "study")
            self.broken[key] = (
                f"{self.file.where(key)}: {dotted(key)}: given {rule.get('study')!r}; {path} is "
                "not there, which `isoflop run` of a study with grid.type probe writes"
            )
            return rule | {"learning_rate": {"k": 1.0}, "batch_tokens": {"k": 1.0}}
        if named is not None and named not in each:
            key = (*key, "architecture")
            self.broken[key] = (
                f"{self.file.where(key)}: {dotted(key)}: given {named!r}, allowed: those probed by "
                f"{rule['study']}: {', '.join(each)}{nearest(str(named), each)}"
            )
        return rule | found | ({"architecture": whose} if whose in each else {})

    def _include(self, values: dict[str, Any], field: str, kind: str, prefix: Key) -> None:
        if not isinstance(name := values.get(field), str):
            return
        key = (*prefix, field)
        try:
            included = read_yaml(find(name, kind, self.file.path.parent, field))
        except ConfigError as error:
            self.broken[key] = f"{self.file.where(key)}: {dotted(key)}: {error}"
        else:
            self.sources[key] = included
            values[field] = included.values


def _is_to_read(rule: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(rule, dict) and rule.get("name") == "measured" and "learning_rate" not in rule


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` written over it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def root(output: str) -> Path:
    """The folder of studies that ``output`` names."""
    return Path(output).expanduser().resolve()
