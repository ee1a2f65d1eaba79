"""A study as one YAML file: corpus, architectures, budgets, laws; checked before anything starts.

Every fault is reported at once, as ``file:line:column: key: what was given, what is allowed``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from data.corpus import CorpusConfig, MixtureConfig, scan
from data.tokenizer import TokenizerConfig, load
from launch.conflicts import expert_counts, refuse_conflicts
from pipeline.errors import ConfigError, KeyedError, nearest
from pipeline.faults import describe, dotted
from pipeline.grids import Grid, RepeatsGrid, Variant
from pipeline.kept import find_study
from pipeline.resolve import Resolver, root
from pipeline.rules import Rule
from pipeline.settings import FitSettings, OwnTraining, ParallelSettings, TrainSettings
from pipeline.store import Uri, scrubbed
from pipeline.strict import NAME_LENGTH, Name, Strict
from pipeline.yaml_file import Key, read_yaml


class Architecture(Strict):
    """A recipe (resolved: a mapping) and what this study changes in it (already merged)."""

    recipe: dict[str, Any] = Field(description="a recipe: its file, or a name in configs/models")
    priority: int = Field(default=0, description="runs of a higher one start first")
    train: OwnTraining = Field(
        default=OwnTraining(),
        description="what it has of its own of the study's `train`",
        exclude_if=lambda given: not given.model_fields_set,
    )
    rule: Rule | None = Field(
        default=None,
        description="its own learning rate and batch; null: by the study's `rule`",
        exclude_if=lambda given: given is None,
    )


def _kind_of_corpus(given: Any) -> str:
    is_mixture = "parts" in given if isinstance(given, dict) else isinstance(given, MixtureConfig)
    return (MixtureConfig if is_mixture else CorpusConfig).__name__


Corpus = Annotated[
    Annotated[CorpusConfig, Tag("CorpusConfig")] | Annotated[MixtureConfig, Tag("MixtureConfig")],
    Discriminator(_kind_of_corpus),
]


class Study(Strict):
    """The resolved study: file names replaced by what the files hold."""

    name: Name = Field(description="of the study, and of its folder in `output`")
    question: str = Field(default="", description="what it asks, for its report")
    corpus: Corpus = Field(description="the text: a file, a name in configs/corpora, or its keys")
    tokenizer: TokenizerConfig = Field(description="what makes tokens of it")
    architectures: Annotated[dict[Name, Architecture], Field(min_length=1)] = Field(
        description="what is trained, by names of your choice"
    )
    grid: Grid = Field(description="which runs are asked for")
    rule: Rule = Field(description="learning rate and batch of each run")
    train: TrainSettings = Field(default=TrainSettings(), description="how runs are trained")
    parallel: ParallelSettings = Field(
        default=ParallelSettings(), description="the ranks of a run, and what they share"
    )
    fit: FitSettings = Field(default=FitSettings(), description="how laws are fitted")
    output: Annotated[str, Field(min_length=1)] = Field(
        default="studies", description="the folder of studies and of their cache of tokens"
    )
    mlflow: Uri | None = Field(
        default=None, description="URI of a store; null: SQLite in the study's folder"
    )
    artifacts: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="URI for MLflow's files; null: the study's folder, or a server's"
    )

    @model_validator(mode="after")
    def _baseline_is_an_architecture(self) -> Study:
        if self.fit.baseline is not None and self.fit.baseline not in self.variants:
            allowed = ", ".join(self.variants)
            told = f"given '{self.fit.baseline}', allowed: {allowed}"
            raise KeyedError(told + nearest(self.fit.baseline, self.variants), ("fit", "baseline"))
        return self

    @model_validator(mode="after")
    def _possible(self) -> Study:
        if isinstance(self.grid, RepeatsGrid):
            self.grid.check(self.corpus)
        for variant in self.variants.values():
            train, experts = self.training(variant), expert_counts(variant.recipe)
            for settings in self.parallel.steps:
                try:
                    refuse_conflicts(settings.layout(train, experts))
                except ValueError as error:
                    key = str(error).partition(" ")[0].split(".")
                    raise KeyedError(f"architectures.{variant.family}: {error}", (*key,)) from None
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> Study:
        """Runs are named after their architecture, `isoflop allocate`'s studies after both."""
        names, most = self.grid.names, NAME_LENGTH
        longest = max(names, key=len)
        for variant in self.variants.values():
            if (left := most - len(f"-{longest}")) < len(variant.name):
                raise KeyedError(
                    f"given a name of {len(variant.name)} characters ({variant.name}), allowed: at "
                    f"most {left}, since a run such as NAME-{longest} may have {most} in all",
                    ("architectures", variant.family),
                )
            if len(names) > 1 and (left := most - len(f"-{variant.name}-1.23e10")) < len(self.name):
                raise KeyedError(
                    f"given a name of {len(self.name)} characters, allowed: at most {left}, since "
                    f"`isoflop allocate` makes studies such as NAME-{variant.name}-1.23e10, which "
                    f"may have {most} in all",
                    ("name",),
                )
        return self

    def training(self, variant: Variant) -> TrainSettings:
        """How the runs of a variant are trained."""
        return self.train.of(self.architectures[variant.family].train)

    def rule_of(self, variant: Variant) -> Rule:
        """Which rule gives the runs of a variant their learning rate and batch."""
        return self.rules[variant.family]

    @property
    def rules(self) -> dict[str, Rule]:
        """The rule of each architecture of the file."""
        return {name: one.rule or self.rule for name, one in self.architectures.items()}

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """The architectures that are trained, by name: those of the file as the grid varies them.

        Raises:
            ValueError: the grid cannot vary one of them.
        """
        given = self.architectures.items()
        found = [v for name, one in given for v in self.grid.variants(name, one.recipe)]
        return {variant.name: variant for variant in found}

    @property
    def folder(self) -> Path:
        """Where everything of this study lives."""
        return root(self.output) / self.name

    @property
    def cache(self) -> Path:
        """Tokenizers and tokens, shared by the studies of one output folder."""
        return root(self.output) / "cache"

    def fingerprint(self) -> str:
        """SHA-256 of the study's canonical JSON."""
        return fingerprint(self.model_dump(mode="json"))


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load_study(path: Path | str, overrides: list[str] | None = None, check: bool = False) -> Study:
    """The study in the YAML file at ``path``, or the name of one: under ``configs/studies/``, or
    that was run before (in the ``output`` of the overrides, if they give one).

    ``check`` also looks at what the study names: that the corpus and the tokenizer are there, and
    that every recipe makes models (of the sizes wanted: that last check alone needs torch).

    Raises:
        ConfigError: every fault found, each with its place, what was given and what is allowed.
    """
    given = [text.partition("=")[2] for text in overrides or [] if text.startswith("output=")]
    outputs = [
        *(str(Path(output).expanduser()) for output in given[-1:]),
        Study.model_fields["output"].default,
    ]
    file = read_yaml(find_study(str(path), outputs), overrides)
    resolver = Resolver(file)
    values = resolver.resolve()
    faults = list(resolver.broken.values())
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        faults += describe(error, Study, resolver.where, known=resolver.broken)
    if faults:
        raise ConfigError(map(scrubbed, faults))
    if check:
        _check(study, resolver)
    return study


def _check(study: Study, resolver: Resolver) -> None:
    """Raise all that is wrong with the files and the models that a study names."""
    checks: list[tuple[Key, Callable[[], object]]] = [
        (key, partial(scan, corpus)) for key, corpus in _corpora(study.corpus)
    ]
    if study.tokenizer.kind == "file":
        checks.append((("tokenizer",), lambda: load(study.tokenizer)))
    recipes: list[tuple[Key, Architecture]] = [
        (("architectures", name, "recipe"), architecture)
        for name, architecture in study.architectures.items()
    ]
    checks += [(key, partial(_check_recipe, study, one.recipe)) for key, one in recipes]
    _raise_faults(checks, resolver)
    _raise_faults([(key, partial(_check_sizes, study, one)) for key, one in recipes], resolver)


def _corpora(corpus: CorpusConfig | MixtureConfig) -> list[tuple[Key, CorpusConfig]]:
    if isinstance(corpus, CorpusConfig):
        return [(("corpus",), corpus)]
    parts = enumerate(corpus.parts)
    return [(("corpus", "parts", number, "corpus"), part.corpus) for number, part in parts]


def _raise_faults(checks: Iterable[tuple[Key, Callable[[], object]]], resolver: Resolver) -> None:
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
    from models.size import check

    check(Recipe.from_dict(recipe), study.tokenizer.vocab_size or 1024)


def _check_sizes(study: Study, architecture: Architecture) -> None:
    from models import Recipe, slicing
    from models.size import shapes

    low, high = study.grid.reach
    vocab_size, convention = study.tokenizer.vocab_size or 1024, study.grid.convention
    recipe, train = architecture.recipe, study.train.of(architecture.train)
    found = shapes(
        Recipe.from_dict(recipe), vocab_size=vocab_size, low=low, high=high, convention=convention
    )
    for model in found[:1]:  # what is asked of it here is the same for all
        model.check_length(train.sequence_length)
        model.check_rates()
        is_relayed = slicing.is_relayed(model)
        for settings in study.parallel.steps:
            layout = settings.layout(train, expert_counts(recipe))
            refuse_conflicts(replace(layout, is_relayed=is_relayed))
