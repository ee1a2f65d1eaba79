"""The compute frontier: the loss of the best model that a budget buys, as a power of the budget."""

from __future__ import annotations

from analysis.laws.base import Parameter
from analysis.laws.posynomial import Posynomial, Term

ENVELOPE = Posynomial(
    name="envelope",
    title="compute envelope",
    equation="L* = E + K/C^c",
    source="follows from the Chinchilla law (arXiv 2203.15556) with c = αβ/(α+β)",
    parameters=(
        Parameter("E", "nats/token", "irreducible loss"),
        Parameter("K", "nats/token · FLOPs^c", "reducible loss at one FLOP"),
        Parameter("c", "1", "exponent of compute"),
    ),
    columns=("flops",),
    terms=(Term("E"), Term("K", {"c": {"flops": -1}})),
    bounds={"c": (0.005, 2.0)},
)
