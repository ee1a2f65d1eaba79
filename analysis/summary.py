"""A fit as a page of text."""

from __future__ import annotations

import math

from analysis.estimate import Estimate
from analysis.notices import NotIdentifiable
from analysis.result import Fit

FOLLOWS = {
    "a": "N* ∝ C^a",
    "b": "D* ∝ C^b",
    "c": "L*(C) − E ∝ C^−c",
    "M_opt": "tokens a parameter that cost least at equal loss",
}


def summarise(fit: Fit) -> str:
    """Law, parameters with intervals, what follows from them, and every remark."""
    lines = [f"{fit.law.title} law  {fit.law.equation}", f"  {fit.law.source}", ""]
    lines += [_data(fit), _quality(fit), ""]
    lines += [f"  {'parameter':<12}{'estimate':>12}   {fit.level:.0%} interval"]
    for parameter in fit.law.parameters:
        estimate = fit.parameters[parameter.name]
        text = f"  {parameter.name:<12}{_number(estimate.value):>12}   {_range(estimate):<26}"
        lines.append(f"{text} {parameter.meaning}, {parameter.unit}")
    for name, estimate in fit.derived.items():
        text = f"  {name:<12}{_number(estimate.value):>12}   {_range(estimate):<26}"
        lines.append(f"{text} {FOLLOWS.get(name, '')}".rstrip())
    lines += _frontier(fit)
    for notice in fit.notices:
        lines.append(f"  {type(notice).__name__}: {notice.message}{_rows(notice.rows)}")
    if fit.excluded:
        lines.append(f"  {len(fit.excluded)} rows left out:")
        lines += [f"    row {e.row}: {e.rule}" for e in fit.excluded]
    return "\n".join(lines).rstrip() + "\n"


def _data(fit: Fit) -> str:
    spans = ", ".join(
        f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in fit.data.ranges.items()
    )
    rule = f"C = {fit.rule.kappa:.3g}·N^{fit.rule.gamma:.4g}·D"
    counted = f"N counts {fit.data.convention}; L in {fit.data.loss_unit}; {rule}"
    return f"  {fit.data.rows} runs: {spans}\n  {counted}"


def _quality(fit: Fit) -> str:
    d = fit.diagnostics
    return (
        f"  objective {d.objective:.6g} (Huber, δ = {d.delta:g}, summed); residual sd "
        f"{d.residual_sd:.2%} of L; R² {d.r_squared:.4f}; condition {d.condition:.2g}; "
        f"{d.starts_agreeing} of {d.starts} starts agree; {len(fit.samples_RP)} resamples "
        f"by {fit.bootstrap}\n  {_extremes(fit)}"
    )


def _extremes(fit: Fit) -> str:
    d = fit.diagnostics
    worst = max(range(len(d.rows)), key=lambda n: abs(d.residuals[n]))
    pulls = max(range(len(d.rows)), key=lambda n: d.leverage[n])
    return (
        f"largest residual {math.expm1(d.residuals[worst]):+.1%} (row {d.rows[worst]}); "
        f"largest leverage {d.leverage[pulls]:.2f} (row {d.rows[pulls]})"
    )


def _frontier(fit: Fit) -> list[str]:
    refused = any(isinstance(notice, NotIdentifiable) for notice in fit.notices)
    if refused or "a" not in fit.derived:
        return [""]
    largest = fit.data.ranges["flops"][1]
    lines = ["", f"  {'FLOPs':<10}{'N*':<34}{'D*':<34}{'D*/N*':<26}loss"]
    for factor in (1, 10, 100):
        best = fit.allocate(largest * factor)
        cells = [f"{best.params:.3g}", f"{best.tokens:.3g}", f"{best.tokens_per_param:.3g}"]
        loss = f"{best.loss:.4f}" if best.loss else "–"
        lines.append(f"  {best.flops:<10.3g}{cells[0]:<34}{cells[1]:<34}{cells[2]:<26}{loss}")
    return [*lines, ""]


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _range(estimate: Estimate) -> str:
    low, high = (
        _number(end) if math.isfinite(end) else "∞" for end in (estimate.low, estimate.high)
    )
    return f"[{'−∞' if low == '∞' else low}, {high}]"


def _rows(rows: tuple[int, ...]) -> str:
    if not rows:
        return ""
    listed = ", ".join(map(str, rows[:8]))
    return f" (rows {listed}{', …' if len(rows) > 8 else ''})"
