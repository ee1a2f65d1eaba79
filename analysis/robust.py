"""Huber regression on log L, for any number of weightings of the table at once.

    minimise_θ  Σ_n w_n · huber_δ(log L̂_n(θ) − log L_n),    low ≤ θ ≤ high

The sum, not the mean: tolerances then do not depend on the number of points. δ = 1e-3 after
Hoffmann et al. (arXiv 2203.15556, §3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.laws.base import Array, Problem

DELTA = 1e-3
CHUNK = 60_000
"""Residuals handled side by side: enough to amortise Python, few enough to stay in cache."""


@dataclass(frozen=True)
class Solution:
    """Minima (R, P), their objectives (R,), and which of them converged (R,)."""

    theta_RP: Array
    objective_R: Array
    converged_R: NDArray[np.bool_]


def huber(residual: Array, delta: float = DELTA) -> Array:
    """r²/2 within δ, δ(|r| − δ/2) beyond."""
    clipped = np.minimum(np.abs(residual), delta)
    return np.asarray(clipped * (np.abs(residual) - clipped / 2))


def minimise(
    problem: Problem,
    starts_RP: Array,
    log_target_RN: Array,
    weights_RN: Array,
    delta: float = DELTA,
    tolerance: float = 1e-16,
    max_iterations: int = 300,
    fixed_P: NDArray[np.bool_] | None = None,
) -> Solution:
    """Minimise from each start; target and weights are (R, N) or broadcast to it.

    Coordinates under `fixed_P` stay where they start.
    """
    rows = log_target_RN.shape[-1]
    if not len(starts_RP):
        return Solution(starts_RP, np.zeros(0), np.zeros(0, dtype=np.bool_))
    shape = (len(starts_RP), rows)
    target_RN = np.broadcast_to(log_target_RN, shape)
    weights_RN = np.broadcast_to(weights_RN, shape)
    chunk = max(CHUNK // rows, 4)
    parts = [
        _Descent(
            problem,
            starts_RP[at : at + chunk],
            target_RN[at : at + chunk],
            weights_RN[at : at + chunk],
            delta,
            fixed_P,
        ).run(tolerance, max_iterations)
        for at in range(0, len(starts_RP), chunk)
    ]
    return Solution(
        np.concatenate([part.theta_RP for part in parts]),
        np.concatenate([part.objective_R for part in parts]),
        np.concatenate([part.converged_R for part in parts]),
    )


class _Descent:
    """A projected Levenberg–Marquardt descent for each of R problems, in step with each other.

    The curvature of Huber's loss is 1 within δ and 0 beyond (Newton), its majoriser's is δ/|r|
    beyond (iteratively reweighted least squares: slow, and always downhill). `majorise` mixes
    them as the damping mixes gradient and Gauss–Newton steps: less after a success, more after
    a failure.
    """

    def __init__(
        self,
        problem: Problem,
        theta_RP: Array,
        target_RN: Array,
        weights_RN: Array,
        delta: float,
        fixed_P: NDArray[np.bool_] | None,
    ) -> None:
        self.problem, self.delta = problem, delta
        self.fixed = np.zeros(theta_RP.shape[1], dtype=np.bool_) if fixed_P is None else fixed_P
        self.theta, self.target, self.weights = theta_RP.copy(), target_RN, weights_RN
        self.damping = np.full(len(theta_RP), 1e-3)
        self.majorise = np.full(len(theta_RP), 1.0)
        self.cost, self.slope, self.curve, self.soft = self._measure(theta_RP, slice(None))

    def run(self, tolerance: float, max_iterations: int) -> Solution:
        active = np.arange(len(self.theta))
        converged = np.zeros(len(self.theta), dtype=np.bool_)
        for _ in range(max_iterations):
            done = self._step(active, tolerance)
            converged[active[done]] = True
            active = active[~done]
            if not len(active):
                break
        return Solution(self.theta, self.cost, converged)

    def _measure(self, theta: Array, of: NDArray[np.intp] | slice) -> tuple[Array, ...]:
        """Objective, its gradient, and the curvatures of points within δ and beyond."""
        predicted, jacobian = self.problem.log_predict(theta)
        residual, weights = predicted - self.target[of], self.weights[of]
        size = np.abs(residual)
        clipped = np.minimum(size, self.delta)
        cost = (weights * clipped * (size - clipped / 2)).sum(axis=1)
        pull = weights * np.copysign(clipped, residual)
        slope = np.matmul(pull[:, None, :], jacobian)[:, 0, :]
        within = size <= self.delta
        turned = jacobian.transpose(0, 2, 1)
        curve = np.matmul(turned * np.where(within, weights, 0.0)[:, None, :], jacobian)
        far = np.where(within, 0.0, weights * clipped / np.where(within, 1.0, size))
        soft = np.matmul(turned * far[:, None, :], jacobian)
        return cost, slope, curve, soft

    def _step(self, active: NDArray[np.intp], tolerance: float) -> NDArray[np.bool_]:
        theta, slope = self.theta[active], self.slope[active]
        low, high = self.problem.low_P, self.problem.high_P
        held = ((theta <= low) & (slope > 0)) | ((theta >= high) & (slope < 0)) | self.fixed
        slope = np.where(held, 0.0, slope)
        soft, hard = self.soft[active], self.curve[active]
        model = hard + self.majorise[active, None, None] * soft
        diagonal = np.einsum("rpp->rp", hard + soft)
        ridge = self.damping[active, None] * diagonal + 1e-14 * diagonal.max(axis=1, keepdims=True)
        model += np.eye(theta.shape[1]) * np.where(held, 1.0, ridge + 1e-300)[:, None, :]
        free = ~held
        model *= (free[:, :, None] & free[:, None, :]) | np.eye(theta.shape[1], dtype=bool)
        step = -np.linalg.solve(model, slope[:, :, None])[:, :, 0]
        trial = np.clip(theta + step, low, high)
        cost, trial_slope, curve, soft = self._measure(trial, active)
        before = self.cost[active]
        gain = before - cost
        expected = -0.5 * (slope * step).sum(axis=1)
        better = gain > 0
        won = active[better]
        self.theta[won], self.cost[won] = trial[better], cost[better]
        self.slope[won], self.curve[won] = trial_slope[better], curve[better]
        self.soft[won] = soft[better]
        easier = gain > 0.25 * expected
        factor = np.where(better, np.where(easier, 0.2, 1.0), 6.0)
        self.damping[active] = np.clip(self.damping[active] * factor, 1e-14, 1e8)
        self.majorise[active] = np.clip(self.majorise[active] * factor, 1e-4, 1.0)
        still = np.abs(trial - theta).max(axis=1) < 1e-13
        stuck = ~better & (self.damping[active] > 1e7)
        return np.asarray((expected <= tolerance * before) | still | stuck | (before == 0))
