"""YAML with positions: a file becomes plain values, and any key of it a ``file:line:column``.

YAML 1.2 by ruamel.yaml's round-trip loader: ``3e15`` and ``1e-3`` are numbers, ``on`` is a string,
no tag constructs an object, and a key given twice is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.errors import ConfigError, nearest

Key = tuple[str | int, ...]
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
MAX_BYTES = 4 * 2**20


@dataclass
class YamlFile:
    """``values`` as plain dicts, lists and scalars; ``where(key)`` says where a key stands."""

    path: Path
    values: dict[str, Any]
    tree: CommentedMap
    overridden: dict[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """``file:line:column`` of ``key``, or of the nearest parent that is written in the file."""
        for length in range(len(key), 0, -1):
            if (text := self.overridden.get(key[:length])) is not None:
                return f"override {text!r}"
        node: Any = self.tree
        line, column = 0, 0
        for part in key:
            try:
                line, column = _position(node, part)
                node = node[part]
            except (KeyError, IndexError, TypeError, AttributeError):
                break
        return f"{self.path}:{line + 1}:{column + 1}"

    def holds(self, key: Key) -> bool:
        """Whether ``key`` is written in this file or one of its overrides."""
        node: Any = self.values
        for part in key:
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                return False
        return True


def read_yaml(path: Path | str, overrides: list[str] | None = None) -> YamlFile:
    """The mapping in the file at ``path``, with dotted ``key=value`` overrides applied.

    Raises:
        ConfigError: no such file, not readable, not YAML, not a mapping, a bad override.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                [f"{path}: larger than {MAX_BYTES // 2**20} MiB: not a configuration"]
            )
        tree = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except DuplicateKeyError as error:
        raise ConfigError([_marked(path, error, "key given twice")]) from None
    except MarkedYAMLError as error:
        raise ConfigError([_marked(path, error, "not valid YAML")]) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not valid YAML: {error}"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    if not isinstance(tree, CommentedMap):
        given = "nothing" if tree is None else type(tree).__name__
        raise ConfigError([f"{path}: given {given}, expected a mapping of keys to values"])
    file = YamlFile(path, _plain(tree), tree)
    for override in overrides or []:
        _apply(file, override)
    return file


def find(name: str, kind: str, folder: Path, what: str) -> Path:
    """A path relative to ``folder``, or a bare name under ``configs/<kind>/``.

    Raises:
        ConfigError: there is neither.
    """
    candidates = [folder / name, CONFIGS / kind / name, CONFIGS / kind / f"{name}.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    known = sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))
    raise ConfigError(
        [
            f"no {what} '{name}': neither a file nor one of configs/{kind}/: "
            f"{', '.join(known)}{nearest(name, known)}"
        ]
    )


def dump_yaml(value: Any) -> str:
    """Plain values as YAML, in their own order, a line each."""
    yaml: Any = YAML(typ="safe", pure=True)
    text = StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    yaml.width = 2**16
    yaml.representer.ignore_aliases = lambda _: True
    yaml.dump(value, text)
    return text.getvalue()


def _apply(file: YamlFile, text: str) -> None:
    name, equals, value = text.partition("=")
    key = tuple(name.strip().split("."))
    if not equals or not all(key):
        raise ConfigError(
            [f"override {text!r}: expected key=value, such as train.sequence_length=256"]
        )
    try:
        parsed = _plain(YAML(typ="rt").load(value)) if value.strip() else None
    except YAMLError as error:
        raise ConfigError([f"override {text!r}: the value is not valid YAML: {error}"]) from None
    node: Any = file.values
    for part in key[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError([f"override {text!r}: '{part}' is a value, not a mapping of keys"])
        node = child
    node[key[-1]] = parsed
    file.overridden[key] = text


def _position(node: Any, part: str | int) -> tuple[int, int]:
    position = node.lc.item(part) if isinstance(node, CommentedSeq) else node.lc.key(part)
    return int(position[0]), int(position[1])


def _marked(path: Path, error: MarkedYAMLError, what: str) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
    return f"{where}: {what}: {(error.problem or '').splitlines()[0] if error.problem else error}"


def _plain(node: Any) -> Any:
    """Plain containers and scalars out of ruamel's annotated ones."""
    if isinstance(node, dict):
        return {(_plain(key)): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node
