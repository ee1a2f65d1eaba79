"""Habits of training that bend a scaling law, told run by run.

Porian et al. (arXiv 2406.19146) trace most of the gap between two published exponents to warm-up,
decay and batch. Each check needs its columns and is silent without them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.laws.base import Array
from analysis.laws.hyperparameters import critical_batch
from analysis.notices import (
    BatchAboveCritical,
    DecayUnmatched,
    LearningRateAtEdge,
    Notice,
    WarmupLong,
    rows_of,
)

WARMUP_SHARE = 0.25
DECAY_TOLERANCE = 0.1


def hygiene(frame: pd.DataFrame) -> list[Notice]:
    """Notices on the runs of a table that have a doubtful schedule, batch or learning rate.

    Columns read: tokens, loss, warmup_tokens, decay_tokens (tokens at which the decay ends, 0 for
    none), batch_tokens, learning_rate with learning_rate_low and learning_rate_high, the ends of
    the probe it was chosen from.
    """
    return [notice for check in CHECKS if (notice := check(frame)) is not None]


def _told(
    frame: pd.DataFrame,
    kind: type[Notice],
    names: tuple[str, ...],
    rule: Callable[..., Array],
    text: str,
) -> Notice | None:
    if not set(names) <= set(frame.columns):
        return None
    columns = [frame[name].to_numpy(np.float64) for name in names]
    at_fault = np.flatnonzero(rule(*columns))
    if not len(at_fault):
        return None
    return kind(f"{len(at_fault)} runs {text}", rows_of(frame.index[at_fault]))


def _warmup(frame: pd.DataFrame) -> Notice | None:
    return _told(
        frame,
        WarmupLong,
        ("warmup_tokens", "tokens"),
        lambda warmup, tokens: warmup > WARMUP_SHARE * tokens,
        f"warm up for more than {WARMUP_SHARE:.0%} of their tokens",
    )


def _decay(frame: pd.DataFrame) -> Notice | None:
    return _told(
        frame,
        DecayUnmatched,
        ("decay_tokens", "tokens"),
        lambda end, tokens: (end > 0) & (np.abs(end / tokens - 1) > DECAY_TOLERANCE),
        "end before or after their learning rate's decay does",
    )


def _batch(frame: pd.DataFrame) -> Notice | None:
    return _told(
        frame,
        BatchAboveCritical,
        ("batch_tokens", "loss"),
        lambda batch, loss: batch > critical_batch(loss),
        "have a batch above the critical one of their loss (arXiv 2001.08361, eq. 1.4)",
    )


def _rate(frame: pd.DataFrame) -> Notice | None:
    return _told(
        frame,
        LearningRateAtEdge,
        ("learning_rate", "learning_rate_low", "learning_rate_high"),
        lambda rate, low, high: (rate <= low) | (rate >= high),
        "have a learning rate at the end of their probe: the best may lie beyond",
    )


CHECKS = (_warmup, _decay, _batch, _rate)
