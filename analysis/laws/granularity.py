"""The granularity law of fine-grained mixtures of experts."""

from __future__ import annotations

from analysis.laws.base import Array, Parameter, Values
from analysis.laws.posynomial import Posynomial, Term


def at_granularity(values: Values, granularity: float) -> dict[str, Array]:
    """The Chinchilla law that is left at one granularity: its optimum is the model's."""
    return {
        "E": values["c"],
        "A": values["g"] / granularity ** values["gamma"] + values["a"],
        "B": values["b"],
        "alpha": values["alpha"],
        "beta": values["beta"],
    }


GRANULARITY = Posynomial(
    name="granularity",
    title="granularity",
    equation="L = c + (g/G^γ + a)/N^α + b/D^β",
    source=(
        "Krajewski et al. 2024, Scaling Laws for Fine-Grained Mixture of Experts, "
        "arXiv 2402.07871, eq. 9"
    ),
    parameters=(
        Parameter("c", "nats/token", "irreducible loss"),
        Parameter("g", "nats/token · params^α", "what coarse experts cost"),
        Parameter("gamma", "1", "exponent of granularity"),
        Parameter("a", "nats/token · params^α", "parameter term at infinite granularity"),
        Parameter("alpha", "1", "exponent of parameters"),
        Parameter("b", "nats/token · tokens^β", "token term"),
        Parameter("beta", "1", "exponent of tokens"),
    ),
    columns=("params", "tokens", "granularity"),
    terms=(
        Term("c"),
        Term("g", {"alpha": {"params": -1}, "gamma": {"granularity": -1}}),
        Term("a", {"alpha": {"params": -1}}),
        Term("b", {"beta": {"tokens": -1}}),
    ),
)
