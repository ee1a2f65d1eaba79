"""From probes to a rule: the learning rate and batch of the least loss, by size and duration."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.atomic import write_text

RULE = "rule.json"
PLACE = ["architecture", "params", "tokens_asked"]
"""One size and one duration: what the best settings are sought for."""


def measured_rule(runs: pd.DataFrame) -> dict[str, Any] | None:
    """Both best settings as k · params^p · tokens^q; None without a finished probe.

    Those of all architectures together, and of each under ``by_architecture``. With fewer than four
    sizes and durations, or such as do not tell sizes from durations, the exponents are zero and k
    the geometric mean. ``edges`` names the places where the best learning rate is at an end of
    those probed: the true one may lie beyond.
    """
    best = _best(_finished(runs))
    if best.empty:
        return None
    return _laws(best) | {
        "by_architecture": [
            {"architecture": str(name)} | _laws(own) for name, own in best.groupby("architecture")
        ],
        "probes": best[
            ["architecture", "params", "tokens", "learning_rate", "batch_tokens"]
        ].to_dict("records"),
        "edges": int(best["is_edge"].sum()),
    }


def _laws(best: pd.DataFrame) -> dict[str, Any]:
    return {
        "learning_rate": _power_law(best, "learning_rate", "learning-rate"),
        "batch_tokens": _power_law(best, "batch_tokens", "batch"),
    }


def told_laws(rule: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    """Whose, of what, and the law: of all together, and where there are several of each."""
    apart = rule.get("by_architecture", [])
    for one in [rule, *(apart if len(apart) > 1 else [])]:
        for name in ("learning_rate", "batch_tokens"):
            yield one.get("architecture", ""), name.replace("_", " "), one[name]


def write_rule(folder: Path, rule: dict[str, Any]) -> None:
    """Keep it where ``rule: {name: measured}`` of another study finds it."""
    write_text(folder / RULE, json.dumps(rule, indent=1, allow_nan=False) + "\n")


def best_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The run of the least loss for each size and duration."""
    finished = _finished(runs)
    if finished.empty:
        return runs.reset_index(drop=True)
    return finished.loc[finished.groupby(PLACE)["loss"].idxmin()].reset_index(drop=True)


def _finished(runs: pd.DataFrame) -> pd.DataFrame:
    """With the duration that was asked for: batches round the tokens differently."""
    return runs[runs["status"] == "finished"].assign(
        tokens_asked=lambda frame: (frame["budget"] / frame["flops"] * frame["tokens"]).round(-1)
    )


def _best(runs: pd.DataFrame) -> pd.DataFrame:
    """For each place the vertex of the parabola through the best batch's losses in log rate."""
    rows: list[dict[str, Any]] = []
    for place, group in runs.groupby(PLACE):
        vertices = []
        for batch, same in group.groupby("batch_tokens"):
            curve = same.groupby("learning_rate")["loss"].mean()
            rate, loss, is_edge = _vertex(list(curve.index), list(curve))
            vertices.append((loss, rate, float(str(batch)), is_edge))
        loss, rate, batch, is_edge = min(vertices)
        named = dict(zip(PLACE, place, strict=True))
        tokens = float(group["tokens"].mean())
        rows.append(
            named
            | {"tokens": tokens, "learning_rate": rate, "batch_tokens": batch, "is_edge": is_edge}
        )
    return pd.DataFrame(rows)


def _vertex(rates: Sequence[float], losses: Sequence[float]) -> tuple[float, float, bool]:
    """The least of a parabola through the lowest point and its neighbours; an end is itself."""
    low = int(np.argmin(losses))
    if not 0 < low < len(rates) - 1:
        return rates[low], losses[low], True
    x = np.log(rates[low - 1 : low + 2])
    curve = np.polynomial.Polynomial.fit(x, losses[low - 1 : low + 2], 2)
    [vertex] = curve.deriv().roots()
    return math.exp(float(vertex)), float(curve(vertex)), False


def _power_law(best: pd.DataFrame, column: str, law: str) -> dict[str, float]:
    from analysis.notices import AnalysisError
    from analysis.parametric import fit

    mean = math.exp(float(np.log(best[column]).mean()))
    constant = {"k": mean, "p": 0.0, "q": 0.0}
    if best["params"].nunique() < 2 or best[column].nunique() < 2:
        return constant
    try:
        found = fit(best[["params", "tokens", column]], law, resamples=0)
    except AnalysisError:
        return constant
    return {k: float(v) for k, v in found.values.items()} if found.identifiable else constant
