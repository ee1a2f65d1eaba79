"""Learning rate, batch and warm-up of a run from a stated rule with its source.

A rule maps a run's parameters, tokens and FLOPs to its hyperparameters. The learning rate is that
of the optimizer's base group: ``init: mup`` scales it by group and width (``models/init.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pipeline.strict import Count, Name, Positive, Strict

Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Hyperparameters:
    """What a rule decides: the batch in tokens before rounding, the warm-up as a share of steps."""

    learning_rate: float
    batch_tokens: float
    warmup_fraction: float


class _Rule(Strict):
    warmup_fraction: Share = Field(default=0.1, description="share of the steps")
    max_learning_rate: Positive = Field(default=0.1, description="no run has a higher one")
    min_batch_tokens: Positive = Field(default=1.0, description="no run has a smaller batch")

    @property
    def told(self) -> str:
        """The first line of its statement: its formula and paper."""
        return (self.__doc__ or "").strip().splitlines()[0]

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

    name: Literal["probe"] = Field(description="the optimum of a probe of your own")
    learning_rate: Positive = Field(description="the best at this batch")
    batch_tokens: Positive = Field(description="the batch of the probe, in tokens")
    steps: Count = Field(default=400, description="a smaller batch before fewer steps than these")

    def __call__(self, params: float, tokens: float, flops: float) -> Hyperparameters:
        batch = min(self.batch_tokens, tokens / self.steps)
        return self._decide(self.learning_rate * math.sqrt(batch / self.batch_tokens), batch)


class StepLawRule(_Rule):
    """lr = 1.79 N^-0.713 D^0.307, B = 0.58 D^0.571 tokens: Li et al. 2025 (2503.04715)."""

    name: Literal["step_law"] = Field(description="Step Law, of parameters and tokens")

    def __call__(self, params: float, tokens: float, flops: float) -> Hyperparameters:
        return self._decide(1.79 * params**-0.713 * tokens**0.307, 0.58 * tokens**0.571)


class DeepSeekRule(_Rule):
    """lr = 0.3118 C^-0.1250, B = 0.2920 C^0.3271 tokens: DeepSeek LLM (2401.02954), section 3.1."""

    name: Literal["deepseek"] = Field(description="DeepSeek's, of FLOPs")

    def __call__(self, params: float, tokens: float, flops: float) -> Hyperparameters:
        return self._decide(0.3118 * flops**-0.1250, 0.2920 * flops**0.3271)


class ConstantRule(_Rule):
    """The same learning rate and batch for every run: for probes and controls."""

    name: Literal["constant"] = Field(description="the same for every run")
    learning_rate: Positive = Field(description="of every run")
    batch_tokens: Positive = Field(description="of every run, in tokens")

    def __call__(self, params: float, tokens: float, flops: float) -> Hyperparameters:
        return self._decide(self.learning_rate, self.batch_tokens)


class PowerLaw(Strict):
    """k · params^p · tokens^q."""

    k: Positive = Field(description="the factor")
    p: float = Field(default=0.0, description="the exponent of parameters")
    q: float = Field(default=0.0, description="the exponent of tokens")

    def __call__(self, params: float, tokens: float) -> float:
        return float(self.k * params**self.p * tokens**self.q)


class MeasuredRule(_Rule):
    """lr and batch as power laws of parameters and tokens, fitted to the probes of ``study``.

    The file names that study alone; its laws are read from its folder when this one is loaded:
    those of each architecture's own probes, and of all probes together for one without any.
    """

    name: Literal["measured"] = Field(description="what a study of grid.type probe has measured")
    study: Name = Field(description="the name of that study, in the same `output`")
    architecture: Name | None = Field(
        default=None,
        description="whose probes; null: of the architecture of the same name, or of all together",
        exclude_if=lambda given: given is None,
    )
    learning_rate: PowerLaw = Field(description="read from that study")
    batch_tokens: PowerLaw = Field(description="read from that study")

    @property
    def told(self) -> str:
        """Whose probes, and the rate that they gave."""
        whose = self.architecture or "all architectures"
        rate = self.learning_rate
        law = f"lr = {rate.k:.3g} N^{rate.p:.3g} D^{rate.q:.3g}"
        return f"{law}, measured by the probes of {whose} in {self.study}"

    def __call__(self, params: float, tokens: float, flops: float) -> Hyperparameters:
        return self._decide(self.learning_rate(params, tokens), self.batch_tokens(params, tokens))


Rule = Annotated[
    ProbeRule | StepLawRule | DeepSeekRule | ConstantRule | MeasuredRule,
    Field(discriminator="name"),
]


def told(rules: Mapping[str, Rule]) -> str:
    """What the rules of architectures are, once where they are the same."""
    found: dict[str, list[str]] = {}
    for name, rule in rules.items():
        found.setdefault(rule.told, []).append(name)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in found.items())
