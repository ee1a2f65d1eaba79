"""Learning rate, batch and warm-up of a run from a stated rule with its source.

A rule maps a run's parameters, tokens and FLOPs to its hyperparameters. The learning rate is that
of the optimizer's base group: ``init: mup`` scales it by group and width (``models/init.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field

from pipeline.strict import Name, Positive, Strict

Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Hyperparameters:
    """What a rule decides: the batch in tokens before rounding, the warm-up as a share of steps."""

    learning_rate: float
    batch_tokens: float
    warmup_fraction: float


class _Rule(Strict):
    warmup_fraction: Share = 0.1
    max_learning_rate: Positive = 0.1
    min_batch_tokens: Positive = 1.0

    def _decide(self, learning_rate: float, batch_tokens: float) -> Hyperparameters:
        batch = max(batch_tokens, self.min_batch_tokens)
        return Hyperparameters(
            min(learning_rate, self.max_learning_rate), batch, self.warmup_fraction
        )


class ProbeRule(_Rule):
    """lr = learning_rate * sqrt(B / batch_tokens), B = min(batch_tokens, D / steps): from a probe.

    A small budget gets a smaller batch before it gets fewer than ``steps`` steps. The root is by
    Malladi et al. 2022 (2205.10287), for Adam; independence of width needs ``init: mup`` (Yang et
    al. 2022, 2203.03466); the two constants come from ``benchmarks/probe_learning_rate.py``.
    """

    name: Literal["probe"]
    learning_rate: Positive
    batch_tokens: Positive
    steps: Annotated[int, Field(ge=1)] = 400

    def __call__(self, params: float, tokens: float, flops: float) -> Hyperparameters:
        batch = min(self.batch_tokens, tokens / self.steps)
        return self._decide(self.learning_rate * math.sqrt(batch / self.batch_tokens), batch)


class StepLawRule(_Rule):
    """lr = 1.79 N^-0.713 D^0.307, B = 0.58 D^0.571 tokens: Li et al. 2025 (2503.04715)."""

    name: Literal["step_law"]

    def __call__(self, params: float, tokens: float, flops: float) -> Hyperparameters:
        return self._decide(1.79 * params**-0.713 * tokens**0.307, 0.58 * tokens**0.571)


class DeepSeekRule(_Rule):
    """lr = 0.3118 C^-0.1250, B = 0.2920 C^0.3271 tokens: DeepSeek LLM (2401.02954), section 3.1."""

    name: Literal["deepseek"]

    def __call__(self, params: float, tokens: float, flops: float) -> Hyperparameters:
        return self._decide(0.3118 * flops**-0.1250, 0.2920 * flops**0.3271)


class ConstantRule(_Rule):
    """The same learning rate and batch for every run: for probes and controls."""

    name: Literal["constant"]
    learning_rate: Positive
    batch_tokens: Positive

    def __call__(self, params: float, tokens: float, flops: float) -> Hyperparameters:
        return self._decide(self.learning_rate, self.batch_tokens)


class PowerLaw(Strict):
    """k · params^p · tokens^q."""

    k: Positive
    p: float = 0.0
    q: float = 0.0

    def __call__(self, params: float, tokens: float) -> float:
        return float(self.k * params**self.p * tokens**self.q)


class MeasuredRule(_Rule):
    """lr and batch as power laws of parameters and tokens, fitted to the probes of ``study``.

    The file names that study alone; its laws are read from its folder when this one is loaded.
    """

    name: Literal["measured"]
    study: Name
    learning_rate: PowerLaw
    batch_tokens: PowerLaw

    def __call__(self, params: float, tokens: float, flops: float) -> Hyperparameters:
        return self._decide(self.learning_rate(params, tokens), self.batch_tokens(params, tokens))


class HasSource(Protocol):
    """Anything whose docstring names where it comes from."""

    __doc__: str | None


Rule = Annotated[
    ProbeRule | StepLawRule | DeepSeekRule | ConstantRule | MeasuredRule,
    Field(discriminator="name"),
]


def source(rule: HasSource) -> str:
    """The first line of the rule's statement: its formula and paper."""
    return (rule.__doc__ or "").strip().splitlines()[0]
