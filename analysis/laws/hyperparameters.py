"""Optimal learning rate and batch as power laws, and the critical batch of a loss."""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Array, Parameter
from analysis.laws.posynomial import Posynomial, Term


def critical_batch(loss: Array | float) -> Array:
    """Tokens a batch beyond which more data parallelism stops paying: 2e8 / L^(1/0.21).

    Kaplan et al. 2020, arXiv 2001.08361, eq. 1.4; L in nats a token.
    """
    return np.asarray(2e8 / np.asarray(loss) ** (1 / 0.21))


def _power_of_scale(name: str, title: str, unit: str, target: str) -> Posynomial:
    return Posynomial(
        name=name,
        title=title,
        equation=f"{target} = k · N^p · D^q",
        source=(
            "Li et al. 2025, Predictable Scale: Part I, Step Law, arXiv 2503.04715: "
            "learning rate ∝ N^−.713 D^.307, batch ∝ D^.571"
        ),
        parameters=(
            Parameter("k", unit, "value at one parameter and one token"),
            Parameter("p", "1", "exponent of parameters", low=-np.inf),
            Parameter("q", "1", "exponent of tokens", low=-np.inf),
        ),
        columns=("params", "tokens"),
        terms=(Term("k", {"p": {"params": 1}, "q": {"tokens": 1}}),),
        bounds={"p": (-3.0, 3.0), "q": (-3.0, 3.0)},
        target=target,
    )


LEARNING_RATE = _power_of_scale(
    "learning-rate", "optimal learning rate", "1", target="learning_rate"
)
BATCH = _power_of_scale("batch", "optimal batch", "tokens", target="batch_tokens")
