"""What might have been measured instead: resamples of a table, in three forms.

rows    rows drawn with replacement: each row carries noise of its own
runs    runs drawn with replacement, with all their rows: checkpoints of one run share noise
seeds   the losses redrawn with the spread that replicate seeds show, the design kept

Runs, and whatever else is drawn together, tell how another would come out only if there are
several: of one there are no resamples, and no interval is bounded; of few, a notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np

from analysis.laws.base import Array
from analysis.notices import FewClusters, Notice, RefusedError, TooFewPoints
from analysis.table import Table

Kind = Literal["rows", "runs", "seeds"]
ENOUGH = 8
"""With fewer clusters than about this a bootstrap of them gives intervals that are too narrow
(Cameron, Gelbach and Miller 2008, Bootstrap-Based Improvements for Inference with Clustered
Errors)."""
DESIGN = ("params", "tokens", "architecture", "experts", "granularity", "sparsity", "unique_tokens")


@dataclass(frozen=True)
class Resamples:
    """Weights of rows (R, N) and shifts of log loss (R, N), either of them (1, N) where it is the
    same in all."""

    kind: Kind
    count: int
    weights_RN: Array
    shifts_RN: Array
    notices: tuple[Notice, ...] = ()


def draw(
    table: Table,
    count: int,
    seed: int,
    kind: Kind | None = None,
    pair_by: str | None = None,
    units: Sequence[str] = (),
) -> Resamples:
    """Draw `count` resamples.

    Unless told, by runs where a run has several rows, else by rows. With `pair_by`, a column
    such as "seed", rows that agree on it are drawn together: tables drawn with the same seed
    over the same `units`, all values of that column, are paired.
    """
    rng = np.random.default_rng(seed if pair_by else [seed, _stream(table)])
    size = len(table)
    if kind is None:
        repeated = table.has("run") and bool(table.frame["run"].duplicated().any())
        kind = "runs" if repeated else "rows"
    if kind == "seeds":
        return Resamples(kind, count, np.ones((1, size)), _seed_noise(table, count, rng))
    label = pair_by or ("run" if kind == "runs" else None)
    if label is None:
        weights = rng.multinomial(size, np.full(size, 1 / size), size=count)
        return Resamples(kind, count, weights.astype(np.float64), np.zeros((1, size)))
    if not table.has(label):
        message = f"rows cannot be resampled by {label!r}: the table has no such column"
        raise RefusedError(TooFewPoints(message))
    labels = table.labels(label)
    clusters = len(np.unique(labels))
    notices = _few(table, label, clusters) if count else ()
    count = count if clusters > 1 else 0
    names = np.unique(units) if len(units) else np.unique(labels)
    cluster_N = np.searchsorted(names, labels)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
    weights_RN = weights[:, cluster_N].astype(np.float64)
    return Resamples(kind, count, weights_RN, np.zeros((1, size)), notices)


def _few(table: Table, label: str, clusters: int) -> tuple[Notice, ...]:
    if clusters >= ENOUGH:
        return ()
    message = f"intervals rest on {clusters} values of {label!r} and are too narrow as a rule"
    if clusters < 2:
        message = f"all rows share one value of {label!r}: nothing bounds an interval"
    return (FewClusters(message, table.rows),)


def _stream(table: Table) -> int:
    """A stream of random numbers for each architecture: unpaired resamples are independent."""
    if not table.has("architecture"):
        return 0
    return crc32("\n".join(np.unique(table.labels("architecture"))).encode())


def seed_spread(table: Table) -> tuple[float, int]:
    """Pooled standard deviation of log loss among replicates of one design, and its freedom."""
    design = [name for name in DESIGN if table.has(name)]
    logs = np.log(table.frame["loss"]).groupby([table.frame[name] for name in design], dropna=False)
    freedom = len(table) - logs.ngroups
    if freedom < 1:
        return float("nan"), 0
    residual = np.log(table.frame["loss"]) - logs.transform("mean")
    return float(np.sqrt((residual**2).sum() / freedom)), freedom


def _seed_noise(table: Table, count: int, rng: np.random.Generator) -> Array:
    spread, freedom = seed_spread(table)
    if not freedom:
        raise RefusedError(TooFewPoints("no two rows are replicates of one design under two seeds"))
    # The spread is itself uncertain, and one for all rows: each resample has its own.
    spread_R1 = spread * np.sqrt(freedom / rng.chisquare(freedom, size=(count, 1)))
    return np.asarray(spread_R1 * rng.standard_normal((count, len(table))))
