"""A study as one YAML file: corpus, architectures, budgets, laws; checked before anything starts.

Every fault is reported at once, as ``file:line:column: key: what was given, what is allowed``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.corpus import CorpusConfig, scan
from data.tokenizer import TokenizerConfig, load
from pipeline.errors import ConfigError, nearest
from pipeline.faults import describe, dotted
from pipeline.rules import Rule
from pipeline.yaml_file import Key, YamlFile, read_yaml

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Convention = Literal["total", "active", "non_embedding", "compute"]
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class Strict(BaseModel):
    """No unknown key, no coercion, no NaN, no change after construction."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Architecture(Strict):
    """A recipe (resolved: a mapping) and what this study changes in it (already merged)."""

    recipe: dict[str, Any]


class IsoflopGrid(Strict):
    """At each budget, ``sizes`` shapes, a factor ``spread`` on both sides of the expected optimum.

    The optimum is expected where tokens / parameters = ``tokens_per_parameter``; a point that would
    take fewer than ``min_steps`` optimizer steps or more than ``max_epochs`` passes over the unique
    tokens is not planned, and named as such.
    """

    type: Literal["isoflop"]
    budgets: Annotated[list[Positive], Field(min_length=1, max_length=64)]
    sizes: Annotated[int, Field(ge=1, le=64)] = 5
    spread: Annotated[float, Field(gt=1, le=1000)] = 3.0
    tokens_per_parameter: Positive = 20.0
    convention: Convention = "compute"
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    min_steps: Count = 100
    max_epochs: Positive = 4.0

    @property
    def reach(self) -> tuple[float, float]:
        """The fewest and the most parameters that any budget could want, generously (C = 6ND)."""
        expected = [math.sqrt(budget / (6 * self.tokens_per_parameter)) for budget in self.budgets]
        return min(expected) / self.spread / 4, max(expected) * self.spread * 4

    @model_validator(mode="after")
    def _distinct(self) -> IsoflopGrid:
        for name in ("budgets", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(
                    f"{name}: given {values}, where one stands twice; each must differ"
                )
        return self


class TrainSettings(Strict):
    """What every run of the study shares."""

    sequence_length: Annotated[int, Field(ge=2)] = 128
    dtype: Literal["fp32", "bf16"] = "fp32"
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt", "wsd"] = "cosine"
    final_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: Annotated[
        list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)
    ] = [0.9, 0.95]
    clip: Positive = 1.0
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    log_points: Annotated[int, Field(ge=2, description="journal entries over a run")] = 100
    evaluations: Count = 4
    eval_tokens: Annotated[int, Field(ge=2)] | None = None
    checkpoint_steps: Count | None = 1000
    retries: Annotated[int, Field(ge=0, le=100)] = 2


class ParallelSettings(Strict):
    """Ranks of every run, and how its state is sharded over them."""

    ranks: Annotated[int, Field(ge=1)] = 1
    zero_stage: Literal[0, 1, 2, 3] = 1
    expert_parallel: Count | None = Field(
        default=None, description="null: all ranks, for models with experts"
    )
    gpus_per_rank: Annotated[float, Field(ge=0)] = 0.0


class FitSettings(Strict):
    """How the laws are fitted and how far they are asked."""

    baseline: Name | None = None
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    extrapolate: Annotated[list[Positive], Field(max_length=16)] = [10.0, 100.0]
    seed: Annotated[int, Field(ge=0)] = 0


class Study(Strict):
    """The resolved study: file names replaced by what the files hold."""

    name: Name
    question: str = ""
    corpus: CorpusConfig
    tokenizer: TokenizerConfig
    architectures: Annotated[dict[Name, Architecture], Field(min_length=1)]
    grid: IsoflopGrid
    rule: Rule
    train: TrainSettings = TrainSettings()
    parallel: ParallelSettings = ParallelSettings()
    fit: FitSettings = FitSettings()
    output: Annotated[str, Field(min_length=1)] = "studies"

    @model_validator(mode="after")
    def _baseline_is_an_architecture(self) -> Study:
        if self.fit.baseline is not None and self.fit.baseline not in self.architectures:
            allowed = ", ".join(self.architectures)
            raise ValueError(f"fit.baseline: given '{self.fit.baseline}', allowed: {allowed}")
        return self

    @property
    def folder(self) -> Path:
        """Where everything of this study lives."""
        return Path(self.output).resolve() / self.name

    @property
    def cache(self) -> Path:
        """Tokenizers and tokens, shared by the studies of one output folder."""
        return Path(self.output).resolve() / "cache"

    def fingerprint(self) -> str:
        """SHA-256 of the study's canonical JSON."""
        return fingerprint(self.model_dump(mode="json"))


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load_study(path: Path | str, overrides: list[str] | None = None, check: bool = False) -> Study:
    """The study in the YAML file at ``path`` (or the name of one under ``configs/studies/``).

    ``check`` also looks at what the study names: that the corpus and the tokenizer are there, and
    that every recipe makes models (which needs torch).

    Raises:
        ConfigError: every fault found, each with its place, what was given and what is allowed.
    """
    file = read_yaml(find(str(path), "studies", Path.cwd(), "study"), overrides)
    resolver = _Resolver(file)
    values = resolver.resolve()
    faults = list(resolver.broken.values())
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        faults += describe(error, Study, resolver.where, known=resolver.broken)
    if faults:
        raise ConfigError(faults)
    if check:
        _check(study, resolver)
    return study


def _check(study: Study, resolver: _Resolver) -> None:
    """Raise all that is wrong with the files and the models that a study names."""
    checks: list[tuple[Key, Callable[[], object]]] = [(("corpus",), lambda: scan(study.corpus))]
    if study.tokenizer.kind == "file":
        checks.append((("tokenizer",), lambda: load(study.tokenizer)))
    for name, architecture in study.architectures.items():
        key: Key = ("architectures", name, "recipe")
        checks.append((key, partial(_check_recipe, study, architecture.recipe)))
    faults = []
    for prefix, look in checks:
        try:
            look()
        except ValueError as error:
            inner: Key = getattr(error, "key", None) or ()
            key, text = (*prefix, *inner), str(error)
            text = text.removeprefix(f"{dotted(inner)}: ")
            faults.append(f"{resolver.where(key)}: {dotted(key)}: {text}")
    if faults:
        raise ConfigError(faults)


def _check_recipe(study: Study, recipe: dict[str, Any]) -> None:
    from models import Recipe
    from models.size import shapes

    low, high = study.grid.reach
    vocab_size, convention = study.tokenizer.vocab_size or 1024, study.grid.convention
    shapes(
        Recipe.from_dict(recipe), vocab_size=vocab_size, low=low, high=high, convention=convention
    )


class _Resolver:
    """Replaces file names in a study by what the files hold, and knows where every key stands."""

    def __init__(self, file: YamlFile):
        self.file = file
        self.sources: dict[Key, YamlFile] = {}
        self.broken: dict[Key, str] = {}

    def resolve(self) -> dict[str, Any]:
        """The study's values with every file name replaced; a file that fails is in ``broken``."""
        values = dict(self.file.values)
        self._include(values, "corpus", "corpora", ())
        if isinstance(given := values.get("architectures"), dict):
            resolved = {name: self._architecture(name, one) for name, one in given.items()}
            values["architectures"] = resolved
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


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` written over it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
        )
    return merged
