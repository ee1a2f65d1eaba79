"""The inference-aware optimum: fewer parameters, more tokens, when the model will be used much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws.base import Array, ComputeRule, Law, Values

LOG_PARAMS = (0.0, float(np.log(1e30)))


@dataclass(frozen=True)
class LifetimeOptimum:
    """Parameters and training tokens, and FLOPs of training and of inference."""

    params: Array
    tokens: Array
    training_flops: Array
    inference_flops: Array


def lifetime_optimum(
    law: Law, values: Values, loss: float, inference_tokens: float, rule: ComputeRule | None = None
) -> LifetimeOptimum:
    """The cheapest model over training and inference that reaches `loss`.

    Minimises κN^γ·(D + D_inf/3) at fixed Chinchilla loss (Sardana et al. 2024, arXiv 2401.00448,
    eq. 3; a forward pass is a third of a training step). At the minimum
    (αA/N^α)/(γβB/D^β) = 1 + D_inf/(3D). NaN where the law never reaches `loss`.
    """
    rule = rule or ComputeRule()
    alpha, beta = values["alpha"], values["beta"]
    room = loss - values["E"]

    def tokens_at(log_params: Array) -> Array:
        left = room - values["A"] * np.exp(-alpha * log_params)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(left > 0, (values["B"] / left) ** (1 / beta), np.inf))

    low, high = (np.full(np.shape(room), end) for end in LOG_PARAMS)
    for _ in range(200):
        middle = (low + high) / 2
        tokens = tokens_at(middle)
        gain = alpha * values["A"] * np.exp(-alpha * middle)
        cost = (
            rule.gamma * beta * values["B"] * tokens**-beta * (1 + inference_tokens / (3 * tokens))
        )
        # Too small a model: another parameter saves more than it costs.
        grow = gain > cost
        low, high = np.where(grow, middle, low), np.where(grow, high, middle)
    params = np.where(room > 0, np.exp(high), np.nan)
    tokens = np.where(room > 0, tokens_at(high), np.nan)
    inference = rule.flops(params, np.asarray(inference_tokens)) / 3
    return LifetimeOptimum(params, tokens, rule.flops(params, tokens), inference)
