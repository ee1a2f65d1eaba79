"""A table of runs, checked: every row is either a measurement or left out under a named rule."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.notices import Diverged, DuplicatedRows, Notice, TableError, Unfinished, rows_of

Array = NDArray[np.float64]

NUMERIC = (
    "params",
    "tokens",
    "loss",
    "flops",
    "budget",
    "unique_tokens",
    "experts",
    "granularity",
    "sparsity",
    "learning_rate",
    "batch_tokens",
    "learning_rate_area",
    "annealing_area",
    "weight",
    "warmup_tokens",
    "decay_tokens",
    "learning_rate_low",
    "learning_rate_high",
    "params_total",
    "params_active",
    "params_non_embedding",
    "params_compute",
)
"""Columns that hold positive numbers, where a table has them."""

MAY_BE_ZERO = ("sparsity", "annealing_area", "warmup_tokens", "decay_tokens")

LABELS = ("run", "architecture", "objective", "seed", "status")
FINISHED = frozenset({"finished", "complete", "completed", "done", "final", "ok"})
DIVERGENCE_FACTOR = 1.5
LARGEST = 1e40
"""No count or loss in any unit is larger than this or smaller than its inverse."""


@dataclass(frozen=True)
class Exclusion:
    """A row that was left out, and the rule that left it out."""

    row: int
    rule: str


@dataclass(frozen=True)
class Table:
    """Measurements in a canonical order, indexed by their position in the table as given.

    Equal measurements are kept once, and rows are sorted by their values: a fit sees neither
    the order of rows nor their repetition.
    """

    frame: pd.DataFrame
    excluded: tuple[Exclusion, ...] = ()
    notices: tuple[Notice, ...] = ()

    @classmethod
    def read(
        cls,
        source: pd.DataFrame | str | Path | Table,
        columns: Mapping[str, str] | None = None,
        needs: Iterable[str] = ("params", "tokens", "loss"),
    ) -> Table:
        """Check a frame or a CSV file; `columns` maps a standard name to the table's own.

        Raises `TableError` for a missing column, text where a number belongs (with its rows),
        or when no row is left. Other defects exclude their row under a rule.
        """
        if isinstance(source, Table):
            _require(source.frame, needs)
            return source
        given = source if isinstance(source, pd.DataFrame) else _read_csv(Path(source))
        frame = _rename(given, columns or {}).reset_index(drop=True)
        needs = tuple(needs)
        _require(frame, needs)
        for name in NUMERIC:
            if name in frame:
                frame[name] = _numbers(frame[name])
        rules = _rules(frame, needs)
        kept = frame[rules.isna()]
        if kept.empty:
            raise TableError(_nothing_left(rules))
        notices: list[Notice] = [
            kind(f"{len(rows)} rows left out as {word}", rows)
            for kind, word in ((Diverged, "diverged"), (Unfinished, "unfinished"))
            if (rows := rows_of(frame.index[rules.str.startswith(word, na=False)]))
        ]
        kept, duplicates = _distinct(kept)
        excluded = [Exclusion(int(str(row)), str(rule)) for row, rule in rules.dropna().items()]
        if duplicates:
            message = f"{len(duplicates)} rows repeat another row's numbers; each was counted once"
            notices.append(DuplicatedRows(message, duplicates))
            excluded += [Exclusion(row, "duplicate of another row") for row in duplicates]
        return cls(kept, tuple(sorted(excluded, key=lambda e: e.row)), tuple(notices))

    def __len__(self) -> int:
        return len(self.frame)

    def column(self, name: str) -> Array:
        """One column as float64."""
        return self.frame[name].to_numpy(dtype=np.float64)

    def columns(self, names: Iterable[str]) -> dict[str, Array]:
        """Several columns as float64, by name."""
        return {name: self.column(name) for name in names}

    def has(self, name: str) -> bool:
        """Whether a column is there."""
        return name in self.frame

    def where(self, mask: NDArray[np.bool_]) -> Table:
        """The rows under a mask; exclusions and notices stay with the whole."""
        return Table(self.frame[mask])

    def architecture(self, name: str) -> Table:
        """The rows of one architecture, with that architecture's share of the notices."""
        return self.where((self.frame["architecture"] == name).to_numpy())

    def labels(self, name: str) -> NDArray[np.str_]:
        """A column of labels as text; a missing one is "unnamed"."""
        return self.frame[name].astype(object).fillna("unnamed").astype(str).to_numpy(np.str_)

    @property
    def flops(self) -> Array:
        """Training FLOPs a run: the table's own, else 6·params·tokens."""
        if self.has("flops"):
            return self.column("flops")
        return 6.0 * self.column("params") * self.column("tokens")

    @property
    def weights(self) -> Array:
        """Weights of the rows in a fit: the table's own column `weight`, else all one."""
        return self.column("weight") if self.has("weight") else np.ones(len(self))

    @property
    def rows(self) -> tuple[int, ...]:
        """Positions of the kept rows in the table as given."""
        return rows_of(self.frame.index)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the kept numbers: equal for equal data in any order."""
        names = [name for name in NUMERIC if self.has(name)]
        digest = hashlib.sha256(",".join(names).encode())
        digest.update(np.ascontiguousarray(self.frame[names].to_numpy(np.float64)).tobytes())
        return digest.hexdigest()


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise TableError(f"there is no table at {path}") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise TableError(f"{path} is not a table of comma-separated values: {error}") from None


def _rename(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    known = (*NUMERIC, *LABELS)
    for standard, own in columns.items():
        if standard not in known:
            raise TableError(f"no standard column is called {standard!r}{_near(standard, known)}")
        if own not in frame:
            near = _near(own, map(str, frame.columns))
            raise TableError(f"the table has no column {own!r} to use as {standard}{near}")
    taken = [name for name in columns if name in frame and columns[name] != name]
    return frame.drop(columns=taken).rename(columns={own: name for name, own in columns.items()})


def _require(frame: pd.DataFrame, needs: Iterable[str]) -> None:
    present = [str(name) for name in frame.columns]
    for name in needs:
        if name not in present:
            listed = ", ".join(present) or "none"
            raise TableError(
                f"the table has no column {name!r}{_near(name, present)}; its columns are: {listed}"
            )
    repeated = sorted({name for name in present if present.count(name) > 1})
    if repeated:
        raise TableError(f"the table has more than one column called {', '.join(repeated)}")


def _near(name: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(name, list(known), n=1)
    return f" (nearest: {match[0]!r})" if match else ""


def _numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column as floats; text that is not a number is an error that names its rows."""
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    text = column[numbers.isna() & column.notna() & ~column.astype(str).str.lower().eq("nan")]
    if len(text):
        row = int(str(text.index[0]))
        listed = ", ".join(map(str, text.index[:5])) + (", …" if len(text) > 5 else "")
        raise TableError(
            f"column {column.name!r} holds text where a number belongs, "
            f"in rows {listed} (row {row}: {text.iloc[0]!r})"
        )
    return numbers


def _rules(frame: pd.DataFrame, needs: tuple[str, ...]) -> pd.Series[Any]:
    """The first rule that excludes each row, NaN where none does."""
    rules: pd.Series[Any] = pd.Series(np.nan, index=frame.index, dtype=object)

    def exclude(mask: pd.Series[Any], rule: str) -> None:
        rules.loc[mask & rules.isna()] = rule

    if "status" in frame:
        status = frame["status"].astype(str).str.lower()
        exclude(status.eq("diverged"), "diverged: so says its status")
        exclude(~status.isin(FINISHED) & frame["status"].notna(), "unfinished: so says its status")
    for name in [column for column in NUMERIC if column in frame]:
        if name not in needs and frame[name].isna().all():
            continue
        if name in needs or name == "flops":
            exclude(~np.isfinite(frame[name]), f"{name} is not finite")
        floor = frame[name] < 0 if name in MAY_BE_ZERO else frame[name] <= 0
        exclude(floor, f"{name} is not positive")
        absurd = (frame[name] > LARGEST) | ((frame[name] > 0) & (frame[name] < 1 / LARGEST))
        exclude(absurd, f"{name} is beyond any unit")
    exclude(_diverged(frame, rules), f"diverged: loss over {DIVERGENCE_FACTOR} × a smaller run's")
    return rules


def _diverged(frame: pd.DataFrame, rules: pd.Series[Any]) -> pd.Series[Any]:
    """Rows whose loss is far over that of a run of the same size on fewer or as many tokens.

    More fresh tokens never raise the loss of a model of the same size by half: such a run
    diverged. Tokens seen again may, so runs that repeat their data are left alone.
    """
    mask = pd.Series(False, index=frame.index)
    if not {"params", "tokens", "loss"} <= set(frame.columns):
        return mask
    extra = ("architecture", "experts", "granularity", "sparsity", "unique_tokens")
    same = ["params", *(name for name in extra if name in frame)]
    sound = frame[rules.isna()].sort_values("tokens", kind="stable")
    if "unique_tokens" in frame:
        sound = sound[~(sound["tokens"] > sound["unique_tokens"])]
    best = sound.groupby(same, dropna=False, sort=False)["loss"].cummin()
    mask.loc[sound.index] = sound["loss"] > DIVERGENCE_FACTOR * best
    return mask


def _distinct(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[int, ...]]:
    """Each measurement once, in the order of its values, and the rows that repeated one."""
    numbers = [name for name in NUMERIC if name in frame]
    keys = [*numbers, *(name for name in ("architecture",) if name in frame)]
    repeated = frame.duplicated(subset=keys)
    kept = frame[~repeated].sort_values(keys, kind="stable")
    return kept, rows_of(frame.index[repeated])


def _nothing_left(rules: pd.Series[Any]) -> str:
    if rules.empty:
        return "the table has no rows"
    counts = rules.value_counts()
    reasons = "; ".join(
        f"{rule} (rows {', '.join(map(str, rules.index[rules == rule][:5]))})"
        for rule in counts.index
    )
    return f"no row of the table is left to fit: {reasons}"
