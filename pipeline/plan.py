"""The runs of a study as they are planned, on disk and in memory; reading them needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.config import RunConfig
from pipeline.atomic import write_text
from pipeline.config import fingerprint
from pipeline.errors import StudyError
from pipeline.runs import own_flops, row, run_flops

if TYPE_CHECKING:
    from data.prepare import Prepared

PLAN = "plan.json"
"""The plan of a study, in its folder."""
PATHS = ("tokenizer", "train", "heldout")
ROWS = "rows.json"
"""Beside a plan: one mapping a run, for those who only look."""


@dataclass(frozen=True)
class Tokens:
    """What a plan trains on and is judged on; ``unique`` counts the training tokens that can be
    drawn before any comes again (of a mixture: before one of its corpora begins anew)."""

    tokenizer: Path
    train: Path
    heldout: Path
    fingerprint: str
    unique: int
    vocab_size: int

    @classmethod
    def of(cls, prepared: Prepared) -> Tokens:
        """What a plan needs to know of a prepared corpus."""
        from data.mixture import Mixture

        sides = [Mixture.open(folder) for folder in (prepared.train, prepared.heldout)]
        identity = fingerprint([side.fingerprint for side in sides])
        return cls(
            tokenizer=prepared.tokenizer,
            train=prepared.train,
            heldout=prepared.heldout,
            fingerprint=identity,
            unique=sides[0].unique_tokens,
            vocab_size=prepared.vocab_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {name: str(getattr(self, name)) for name in PATHS}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tokens:
        """Read what ``to_dict`` wrote."""
        paths = {name: Path(values[name]) for name in PATHS}
        return cls(**(values | paths))


@dataclass(frozen=True)
class Skipped:
    """A point of the grid that is not run, and the rule that says so."""

    architecture: str
    budget: float
    params: int
    rule: str
    detail: str


@dataclass(frozen=True)
class Plan:
    """The runs of a study, in the order of its architectures and of its grid."""

    runs: tuple[RunConfig, ...]
    skipped: tuple[Skipped, ...]
    tokens: Tokens

    @cached_property
    def flops(self) -> float:
        """Training FLOPs that the whole plan spends."""
        return sum(map(own_flops, self.runs))

    @cached_property
    def saved(self) -> float:
        """Training FLOPs that trunks save: of the branches from scratch, less what is spent."""
        spent = sum(own_flops(run) for run in self.runs if run.labels.get("role") != "control")
        whole = sum(run_flops(run) for run in self.runs if run.labels.get("role", "run") == "run")
        return whole - spent

    @cached_property
    def largest(self) -> float:
        """Training FLOPs of the largest run."""
        return max(map(run_flops, self.runs))

    def write(self, path: Path) -> None:
        """The plan as JSON, and beside it what each run is, atomically each."""
        document = {
            "tokens": self.tokens.to_dict(),
            "runs": [run.model_dump(mode="json") for run in self.runs],
            "skipped": [asdict(point) for point in self.skipped],
        }
        write_text(path, json.dumps(document) + "\n")
        write_text(path.with_name(ROWS), json.dumps(rows(self.runs)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan that ``write`` wrote.

        Raises:
            StudyError: there is none.
        """
        document = _read(path)
        runs = tuple(RunConfig.model_validate_json(json.dumps(run)) for run in document["runs"])
        skipped = tuple(Skipped(**point) for point in document["skipped"])
        return cls(runs, skipped, Tokens.from_dict(document["tokens"]))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What each run of a written plan is, without reading the plan: it is far larger.

    Raises:
        StudyError: there is no plan.
    """
    try:
        found: list[dict[str, Any]] = json.loads(path.with_name(ROWS).read_text())
    except FileNotFoundError:
        return rows(Plan.read(path).runs)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise StudyError(
            f"{path}: no plan there; `isoflop run` or `isoflop plan` makes one"
        ) from None
    return document


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan's rows for ``--json``: one flat mapping a run."""
    return {
        "unique_tokens": plan.tokens.unique,
        "flops": plan.flops,
        "saved_flops": plan.saved,
        "runs": rows(plan.runs),
        "skipped": [asdict(point) for point in plan.skipped],
    }


def rows(runs: Iterable[RunConfig]) -> list[dict[str, Any]]:
    """What each run is."""
    return [row(run) for run in runs]
