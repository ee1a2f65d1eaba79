"""FLOPs a token as a power of the parameter count, under the convention of the table at hand."""

from __future__ import annotations

import numpy as np

from analysis.laws.base import ComputeRule
from analysis.notices import ComputeNotPowerLaw, Notice
from analysis.table import Table

TOLERANCE = 0.05


def compute_rule(table: Table) -> tuple[ComputeRule, list[Notice]]:
    """Fit C/D = kappa · N^gamma to the runs' own FLOPs; 6·N·D where a table has none.

    One size alone cannot tell gamma, which is then 1. A row further than 5 % from the rule is
    named in a notice: allocations would be off by as much.
    """
    if not table.has("flops"):
        return ComputeRule(), []
    log_params = np.log(table.column("params"))
    log_cost = np.log(table.flops / table.column("tokens"))
    proportional = ComputeRule(float(np.exp((log_cost - log_params).mean())), 1.0)
    if np.ptp(log_params) < 1e-9:
        return proportional, []
    centre = log_params.mean()
    gamma, level = np.polyfit(log_params - centre, log_cost, 1)
    residual = log_cost - (level + gamma * (log_params - centre))
    rule = ComputeRule(float(np.exp(level - gamma * centre)), float(gamma))
    if gamma <= 0:
        message = (
            "FLOPs a token do not grow with the parameters here; "
            f"allocations take them as {proportional.kappa:.3g}·N"
        )
        return proportional, [ComputeNotPowerLaw(message, table.rows)]
    worst = float(np.exp(np.abs(residual).max()) - 1)
    if worst <= TOLERANCE:
        return rule, []
    rows = np.array(table.frame.index)[np.abs(residual) > np.log1p(TOLERANCE)]
    message = (
        f"FLOPs a token follow {rule.kappa:.3g}·N^{rule.gamma:.3g} only to within {worst:.0%}; "
        "allocations carry that error"
    )
    return rule, [ComputeNotPowerLaw(message, tuple(int(row) for row in rows))]
