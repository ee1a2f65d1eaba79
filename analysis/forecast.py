"""Forecasts on record: a prediction frozen before its run exists, scored once after it.

Pure functions of JSON values: the caller says what time it is and where the register lies.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from analysis.notices import AnalysisError
from analysis.result import Fit


@dataclass(frozen=True)
class Score:
    """What became of a forecast: `error` is predicted over measured loss − 1."""

    loss: float
    error: float
    inside: bool
    scored: float


@dataclass(frozen=True)
class Forecast:
    """A predicted loss with the interval for one new run, and all that it was made from.

    Times are unix seconds. `fingerprint` is of the data the law was fitted to, `identity` of the
    forecast itself: a register edited afterwards no longer matches it.
    """

    target: Mapping[str, float]
    loss: float
    low: float
    high: float
    level: float
    law: str
    law_version: int
    parameters: Mapping[str, float]
    fingerprint: str
    extrapolation: float
    made: float
    identity: str = ""
    score: Score | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Forecast:
        """The forecast that `to_dict` was called on; `AnalysisError` if it was altered since."""
        score = fields["score"] and Score(**fields["score"])
        forecast = cls(**{**fields, "score": score})
        if forecast.identity != _identity(forecast):
            made = f"{forecast.made:.0f}"
            raise AnalysisError(f"the forecast made at {made} was altered after it was frozen")
        return forecast


def freeze(fit: Fit, *, made: float, flops: float | None = None, **columns: float) -> Forecast:
    """Predict one run and put it on record.

    The run is given by the law's own columns (`params=…, tokens=…`), or by `flops` alone, which
    stands for the compute-optimal run of that budget. Raises `AnalysisError` where the interval
    is unbounded: such a forecast could not fail.
    """
    if flops is not None and not columns:
        best = fit.allocate(flops)
        columns = {"params": best.params.value, "tokens": best.tokens.value}
    predicted = fit.predict(noise=True, **columns)
    loss, low, high = (float(v[0]) for v in (predicted.loss, predicted.low, predicted.high))
    if not math.isfinite(high):
        raise AnalysisError(
            "the fit bounds no loss there, and a forecast without bounds says nothing"
        )
    compute = flops or fit.compute_of(**columns)
    forecast = Forecast(
        target={**columns, "flops": compute},
        loss=loss,
        low=low,
        high=high,
        level=fit.level,
        law=fit.law.name,
        law_version=fit.law.version,
        parameters={name: float(value) for name, value in fit.values.items()},
        fingerprint=fit.data.fingerprint,
        extrapolation=compute / fit.data.ranges["flops"][1],
        made=made,
    )
    return replace(forecast, identity=_identity(forecast))


def score(forecast: Forecast, loss: float, *, scored: float) -> Forecast:
    """The forecast with what was measured; a forecast is scored once."""
    if forecast.score is not None:
        raise AnalysisError(f"this forecast was scored before, at a loss of {forecast.score.loss}")
    if not (math.isfinite(loss) and loss > 0):
        raise AnalysisError(f"a measured loss is a positive number, not {loss}")
    result = Score(loss, forecast.loss / loss - 1, forecast.low <= loss <= forecast.high, scored)
    return replace(forecast, score=result)


def read_register(text: str) -> list[Forecast]:
    """The forecasts of a register, one JSON object a line."""
    return [Forecast.from_dict(json.loads(line)) for line in text.splitlines() if line.strip()]


def write_register(forecasts: Sequence[Forecast]) -> str:
    """A register as text."""
    return "".join(json.dumps(f.to_dict(), allow_nan=False) + "\n" for f in forecasts)


def _identity(forecast: Forecast) -> str:
    """SHA-256 of everything but the score."""
    fields = replace(forecast, identity="", score=None).to_dict()
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
