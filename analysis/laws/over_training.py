"""The over-training law: loss by compute and by tokens per parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.laws.base import Array, ComputeRule, Parameter, Values
from analysis.laws.posynomial import Posynomial, Term


@dataclass(frozen=True)
class OverTraining(Posynomial):
    """L = E + (a·M^η + b·M^−η)·C^−η with M = D/N and C = 6ND.

    Gadre et al. 2024, arXiv 2403.08540, eq. 4: the Chinchilla law with α = β = 2η, in other
    variables. Curves of equal M are parallel in log (L − E) against log C.
    """

    def optimum(self, values: Values, flops: Array | float, rule: ComputeRule) -> Array:
        """The Chinchilla optimum with A = a·6^−η for parameters, B = b·6^−η for tokens."""
        exponent = 2 * values["eta"]
        log_ratio = np.log(values["a"] / (rule.gamma * values["b"]))
        log_params = log_ratio + exponent * np.log(flops / rule.kappa)
        return np.asarray(np.exp(log_params / (exponent * (1 + rule.gamma))))

    def derived(self, values: Values, rule: ComputeRule) -> dict[str, Array]:
        """The ratio of tokens to parameters that costs least at equal loss, for C = 6ND."""
        return {"M_opt": (values["b"] / values["a"]) ** (1 / (2 * values["eta"]))}


def _compute_and_ratio(columns: Mapping[str, Array]) -> Mapping[str, Array]:
    params, tokens = np.asarray(columns["params"]), np.asarray(columns["tokens"])
    return {"C": 6 * params * tokens, "M": tokens / params}


OVER_TRAINING = OverTraining(
    name="over-training",
    title="over-training",
    equation="L = E + (a·M^η + b·M^−η)·C^−η, M = D/N",
    source="Gadre et al. 2024, Language models scale reliably with over-training, arXiv 2403.08540",
    parameters=(
        Parameter("E", "nats/token", "irreducible loss"),
        Parameter("a", "nats/token · FLOPs^η", "term that grows with tokens per parameter"),
        Parameter("b", "nats/token · FLOPs^η", "term that falls with tokens per parameter"),
        Parameter("eta", "1", "exponent of compute at a fixed ratio"),
    ),
    columns=("params", "tokens"),
    terms=(
        Term("E"),
        Term("a", {"eta": {"M": 1, "C": -1}}),
        Term("b", {"eta": {"M": -1, "C": -1}}),
    ),
    bounds={"eta": (0.005, 1.5)},
    derive=_compute_and_ratio,
)
