"""The sparsity law of mixtures of experts: parameters and FLOPs a token as separate resources."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.laws.base import Array, Parameter
from analysis.laws.posynomial import Posynomial, Term


def _density(columns: Mapping[str, Array]) -> Mapping[str, Array]:
    return {**columns, "density": 1 - np.asarray(columns["sparsity"])}


SPARSITY = Posynomial(
    name="sparsity",
    title="sparsity",
    equation="L = a/N^α + b/D^β + c/(1−S)^λ + d/((1−S)^δ·N^γ) + e",
    source=(
        "Abnar et al. 2025, Parameters vs FLOPs: Scaling Laws for Optimal Sparsity for "
        "Mixture-of-Experts Language Models, arXiv 2501.12370"
    ),
    parameters=(
        Parameter("a", "nats/token · params^α", "parameter term, N in total"),
        Parameter("alpha", "1", "exponent of parameters"),
        Parameter("b", "nats/token · tokens^β", "token term"),
        Parameter("beta", "1", "exponent of tokens"),
        Parameter("c", "nats/token", "sparsity term"),
        Parameter("lambda", "1", "exponent of density 1 − S"),
        Parameter("d", "nats/token · params^γ", "sparsity with parameters"),
        Parameter("delta", "1", "exponent of density there"),
        Parameter("gamma", "1", "exponent of parameters there"),
        Parameter("e", "nats/token", "irreducible loss"),
    ),
    columns=("params", "tokens", "sparsity"),
    terms=(
        Term("a", {"alpha": {"params": -1}}),
        Term("b", {"beta": {"tokens": -1}}),
        Term("c", {"lambda": {"density": -1}}),
        Term("d", {"delta": {"density": -1}, "gamma": {"params": -1}}),
        Term("e"),
    ),
    bounds={"lambda": (-3.0, 3.0), "delta": (-3.0, 3.0)},
    derive=_density,
)
