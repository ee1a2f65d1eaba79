"""The Chinchilla law: loss falls as a power of parameters plus a power of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws.base import Array, ComputeRule, Parameter, Values
from analysis.laws.posynomial import Posynomial, Term


@dataclass(frozen=True)
class Chinchilla(Posynomial):
    """L = E + A/N^α + B/D^β (Hoffmann et al. 2022, arXiv 2203.15556, eq. 2)."""

    def optimum(self, values: Values, flops: Array | float, rule: ComputeRule) -> Array:
        """N* with N*^(α+γβ) = αA/(γβB) · (C/κ)^β; eq. 4 of the paper is κ = 6, γ = 1."""
        alpha, beta, gamma = values["alpha"], values["beta"], rule.gamma
        log_ratio = np.log(alpha * values["A"]) - np.log(gamma * beta * values["B"])
        log_params = (log_ratio + beta * np.log(flops / rule.kappa)) / (alpha + gamma * beta)
        return np.asarray(np.exp(log_params))

    def derived(self, values: Values, rule: ComputeRule) -> dict[str, Array]:
        """N* ∝ C^a, D* ∝ C^b, L*(C) − E ∝ C^−c."""
        alpha, beta, gamma = values["alpha"], values["beta"], rule.gamma
        a = beta / (alpha + gamma * beta)
        return {"a": a, "b": 1 - gamma * a, "c": alpha * a}


CHINCHILLA = Chinchilla(
    name="chinchilla",
    title="Chinchilla",
    equation="L = E + A/N^α + B/D^β",
    source="Hoffmann et al. 2022, Training Compute-Optimal Large Language Models, arXiv 2203.15556",
    parameters=(
        Parameter("E", "nats/token", "irreducible loss"),
        Parameter("A", "nats/token · params^α", "parameter term"),
        Parameter("B", "nats/token · tokens^β", "token term"),
        Parameter("alpha", "1", "exponent of parameters"),
        Parameter("beta", "1", "exponent of tokens"),
    ),
    columns=("params", "tokens"),
    terms=(
        Term("E"),
        Term("A", {"alpha": {"params": -1}}),
        Term("B", {"beta": {"tokens": -1}}),
    ),
)
