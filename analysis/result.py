"""A fitted law: never bare numbers, but intervals, derived quantities, notices and predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from analysis.allocation import Allocation, Prediction, extrapolation_notice
from analysis.estimate import LEVEL, Estimate, finite
from analysis.laws.base import Array, ComputeRule, Law
from analysis.laws.registry import get
from analysis.notices import AnalysisError, Notice, NotIdentifiable, RefusedError
from analysis.table import Exclusion

__all__ = ["Allocation", "DataSummary", "Diagnostics", "Fit", "Prediction", "interval"]


@dataclass(frozen=True)
class DataSummary:
    """What a law was fitted to."""

    rows: int
    fingerprint: str
    convention: str
    ranges: Mapping[str, tuple[float, float]]
    loss_unit: str = "nats/token"


@dataclass(frozen=True)
class Diagnostics:
    """How the fit went, and what the design lets it know.

    Residuals are log L − log L̂, in the canonical order of the table, whose positions `rows`
    gives; `condition` is the condition number of the scaled Jacobian at the fit.
    """

    objective: float
    delta: float
    residual_sd: float
    r_squared: float
    condition: float
    starts: int
    starts_agreeing: int
    rows: tuple[int, ...]
    residuals: tuple[float, ...]
    leverage: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Fit:
    """A law with its parameters, their resamples (R, P), and what there is to say about both."""

    law: Law
    values_P: Array
    samples_RP: Array
    limits: Mapping[str, Estimate]
    rule: ComputeRule
    data: DataSummary
    diagnostics: Diagnostics
    bootstrap: str
    notices: tuple[Notice, ...]
    excluded: tuple[Exclusion, ...]
    level: float = LEVEL

    @property
    def identifiable(self) -> bool:
        """Whether the design determines every parameter."""
        return not any(isinstance(notice, NotIdentifiable) for notice in self.notices)

    @property
    def objective(self) -> float:
        """The summed robust loss at the fit."""
        return self.diagnostics.objective

    @property
    def parameters(self) -> dict[str, Estimate]:
        """The law's parameters with their intervals."""
        return dict(self.limits)

    @property
    def values(self) -> dict[str, Array]:
        """The point estimate by name, as 0-d arrays."""
        return {name: self.values_P[p] for p, name in enumerate(self.law.names)}

    @property
    def samples(self) -> dict[str, Array]:
        """Resampled parameters by name, (R, 1)."""
        return {name: self.samples_RP[:, p, None] for p, name in enumerate(self.law.names)}

    @property
    def derived(self) -> dict[str, Estimate]:
        """Exponents of the compute-optimal allocation and the like."""
        values = self.law.derived(self.values, self.rule)
        samples = self.law.derived(self.samples, self.rule)
        return {name: self._estimate(values[name], samples[name]) for name in values}

    def _estimate(self, value: Array, samples: Array) -> Estimate:
        if not self.identifiable:
            return Estimate(float(value), -np.inf, np.inf)
        return Estimate.of(value, samples, self.level)

    def predict(self, *, noise: bool = False, **columns: float | Array) -> Prediction:
        """The loss at given columns (`params=…, tokens=…`), with intervals.

        They are intervals of the law's mean; with `noise`, of one new run's loss.
        """
        given = {name: np.atleast_1d(np.asarray(v, np.float64)) for name, v in columns.items()}
        missing = [name for name in self.law.columns if name not in given]
        if missing:
            message = f"the {self.law.title} law predicts from {', '.join(self.law.columns)}"
            raise TypeError(f"{message}; missing: {', '.join(missing)}")
        value = self.law.predict(self.values, given)
        samples = self.law.predict(self.samples, given)
        if noise:
            samples = samples * np.exp(self._noise(samples.shape))
        low, high = self.ends(samples)
        return Prediction(value, np.maximum(low, 0.0), high)

    def ends(self, samples_RX: Array) -> Array:
        """Both ends of the intervals of resampled quantities (2, X); infinite where unknown."""
        if not self.identifiable or not len(samples_RX):
            unbounded = np.full(samples_RX.shape[1:], np.inf)
            return np.stack([-unbounded, unbounded])
        columns = samples_RX.reshape(len(samples_RX), -1).T
        ends = [Estimate.of(np.nan, column, self.level) for column in columns]
        both = np.array([[e.low for e in ends], [e.high for e in ends]])
        return both.reshape(2, *samples_RX.shape[1:])

    def _noise(self, shape: tuple[int, ...]) -> Array:
        residuals = np.array(self.diagnostics.residuals)
        freedom = max(len(residuals) - len(self.values_P), 1)
        inflate = np.sqrt(len(residuals) / freedom)
        return np.asarray(np.random.default_rng(0).choice(residuals * inflate, size=shape))

    def allocate(self, flops: float) -> Allocation:
        """The compute-optimal parameters and tokens at `flops`, and the loss they reach.

        Raises `RefusedError` where the design does not identify the law, `AnalysisError` where the
        law has no optimum.
        """
        for notice in self.notices:
            if isinstance(notice, NotIdentifiable):
                raise RefusedError(notice)
        params, tokens, loss = self.frontier(flops, self.values)
        params_R, tokens_R, loss_R = self.frontier(flops, self.samples)
        with np.errstate(all="ignore"):
            ratio, ratio_R = tokens / params, tokens_R / params_R
        factor = flops / self.data.ranges["flops"][1]
        notices = extrapolation_notice(flops, factor)
        return Allocation(
            flops=float(flops),
            params=self._estimate(params, params_R),
            tokens=self._estimate(tokens, tokens_R),
            tokens_per_param=self._estimate(ratio, ratio_R),
            loss=self._estimate(loss, loss_R),
            extrapolation=float(factor),
            notices=notices,
        )

    def frontier(
        self, flops: float | Array, values: Mapping[str, Array] | None = None
    ) -> tuple[Array, Array, Array]:
        """N*, D* and L* at `flops` for the point estimate, or for given parameters."""
        values = self.values if values is None else values
        # A resample at the end of its range may put the optimum out of any reach: infinite then.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            params = self.law.optimum(values, flops, self.rule)
            tokens = self.rule.tokens(flops, params)
            loss = self.law.predict(values, {"params": params, "tokens": tokens})
        return params, tokens, loss

    def compute_of(self, **columns: float) -> float:
        """Training FLOPs of a run, by the rule of the table."""
        if "flops" in columns:
            return float(columns["flops"])
        if not {"params", "tokens"} <= set(columns):
            raise AnalysisError(f"the FLOPs of a run do not follow from {', '.join(columns)}")
        return float(self.rule.flops(np.asarray(columns["params"]), np.asarray(columns["tokens"])))

    def summary(self) -> str:
        """The fit as text, for people."""
        from analysis.summary import summarise

        return summarise(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything, resamples included, as JSON values."""
        d = self.diagnostics
        return {
            "law": self.law.name,
            "law_version": self.law.version,
            "equation": self.law.equation,
            "source": self.law.source,
            "units": {parameter.name: parameter.unit for parameter in self.law.parameters},
            "parameters": {name: e.value for name, e in self.limits.items()},
            "intervals": {name: interval(e) for name, e in self.limits.items()},
            "level": self.level,
            "derived": {name: e.to_dict() for name, e in self.derived.items()},
            "identifiable": self.identifiable,
            "objective": d.objective,
            "warnings": [notice.to_dict() for notice in self.notices],
            "excluded": [{"row": e.row, "rule": e.rule} for e in self.excluded],
            "compute": {"kappa": self.rule.kappa, "gamma": self.rule.gamma},
            "data": {
                "rows": self.data.rows,
                "fingerprint": self.data.fingerprint,
                "convention": self.data.convention,
                "loss_unit": self.data.loss_unit,
                "ranges": {name: list(ends) for name, ends in self.data.ranges.items()},
            },
            "diagnostics": {
                "delta": d.delta,
                "residual_sd": d.residual_sd,
                "r_squared": finite(d.r_squared),
                "condition": finite(d.condition),
                "starts": d.starts,
                "starts_agreeing": d.starts_agreeing,
                "rows": list(d.rows),
                "residuals": list(d.residuals),
                "leverage": list(d.leverage),
            },
            "bootstrap": {"kind": self.bootstrap, "samples": self.samples_RP.tolist()},
        }

    def to_json(self) -> str:
        """Strict JSON; `Fit.from_json` reads it back to an equal fit."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Fit:
        """The fit that `to_json` was called on."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Fit:
        """The fit that `to_dict` was called on."""
        law = get(cast(str, fields["law"]))
        estimates = {
            name: Estimate.from_dict({"value": value, "low": low, "high": high})
            for name, value in fields["parameters"].items()
            for low, high in [fields["intervals"][name]]
        }
        d, data = dict(fields["diagnostics"]), fields["data"]
        for name in ("rows", "residuals", "leverage"):
            d[name] = tuple(d[name])
        for name in ("r_squared", "condition"):
            d[name] = np.inf if d[name] is None else d[name]
        samples = np.array(fields["bootstrap"]["samples"], dtype=np.float64)
        return cls(
            law=law,
            values_P=np.array([estimates[name].value for name in law.names]),
            samples_RP=samples.reshape(-1, len(law.names)),
            limits=estimates,
            rule=ComputeRule(**fields["compute"]),
            data=DataSummary(
                data["rows"],
                data["fingerprint"],
                data["convention"],
                {name: (low, high) for name, (low, high) in data["ranges"].items()},
                data["loss_unit"],
            ),
            diagnostics=Diagnostics(objective=fields["objective"], **d),
            bootstrap=fields["bootstrap"]["kind"],
            notices=tuple(Notice.from_dict(notice) for notice in fields["warnings"]),
            excluded=tuple(Exclusion(e["row"], e["rule"]) for e in fields["excluded"]),
            level=fields["level"],
        )


def interval(estimate: Estimate) -> list[float | None]:
    """[low, high], null where unbounded."""
    return [finite(estimate.low), finite(estimate.high)]
