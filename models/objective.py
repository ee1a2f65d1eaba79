"""What a recipe is trained to predict, and how long the sequences are that it makes of a text.

`lengths(T)` says what a row of T tokens of text becomes: (source, target), the positions that the
encoder and the decoder (or the only stack, with a source of 0) see. FLOPs, budgets and epochs count
the T tokens of text, whatever part of them is a target. `special` ids, the vocabulary's last ones,
are the objective's own: the mask or the sentinels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from models.errors import RecipeError

Sight = Literal["past", "all", "source"]
"""What a model must see to be trained so: the past alone, the whole row, or a source beside it."""


@dataclass(frozen=True, kw_only=True)
class Causal:
    """Each token predicts the next."""

    sights: ClassVar[tuple[Sight, ...]] = ("past",)
    special: ClassVar[int] = 0

    def lengths(self, length: int) -> tuple[int, int]:
        """The row as it is."""
        return 0, length


@dataclass(frozen=True, kw_only=True)
class MultiToken:
    """Each token predicts the next, and `depth` modules of the model those after it (DeepSeek-V3,
    2412.19437, section 2.2). The modules' mean loss counts `weight` times; an evaluation is of the
    next token alone."""

    depth: int = 1
    weight: float = 0.3

    sights: ClassVar[tuple[Sight, ...]] = ("past",)
    special: ClassVar[int] = 0

    def lengths(self, length: int) -> tuple[int, int]:
        """The row as it is."""
        return 0, length


@dataclass(frozen=True, kw_only=True)
class Masked:
    """A share of the tokens is hidden and predicted (BERT, 1810.04805)."""

    probability: float = 0.15

    sights: ClassVar[tuple[Sight, ...]] = ("all",)
    special: ClassVar[int] = 1

    def lengths(self, length: int) -> tuple[int, int]:
        """The row as it is."""
        return 0, length


@dataclass(frozen=True, kw_only=True)
class ReplacedToken:
    """Each token is the text's own or was replaced (ELECTRA, 2003.10555): by the recipe's
    `generator`, or without one by a random token. `weight` is the paper's λ of the two losses."""

    probability: float = 0.15
    weight: float = 50.0

    sights: ClassVar[tuple[Sight, ...]] = ("all",)
    special: ClassVar[int] = 1

    def lengths(self, length: int) -> tuple[int, int]:
        """The row as it is."""
        return 0, length


@dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """Spans become one sentinel each; the sentinels and their spans are the target (T5,
    1910.10683). A decoder alone reads the source and then the target."""

    density: float = 0.15
    mean_span: float = 3.0
    sentinels: int = 100

    sights: ClassVar[tuple[Sight, ...]] = ("source", "past")

    @property
    def special(self) -> int:
        """The sentinels."""
        return self.sentinels

    def lengths(self, length: int) -> tuple[int, int]:
        """What is kept and a sentinel per span; the spans, a sentinel each, and a last one."""
        noise, spans = spans_of(length, self.density, self.mean_span)
        if spans >= self.sentinels:
            raise RecipeError(
                ("objective", "sentinels"),
                self.sentinels,
                f"at least {spans + 1}, for the spans of {length} tokens and the last one",
                "too few",
            )
        return length - noise + spans, noise + spans + 1


@dataclass(frozen=True, kw_only=True)
class Infilling:
    """Spans, Poisson in length and perhaps empty, become one mask each, and the whole text is the
    target (BART, 1910.13461, section 2.2). All rows have as many spans that hide as many tokens."""

    density: float = 0.3
    mean_span: float = 3.0

    sights: ClassVar[tuple[Sight, ...]] = ("source",)
    special: ClassVar[int] = 1

    def lengths(self, length: int) -> tuple[int, int]:
        """What is kept and a mask per span; the text."""
        noise, spans = spans_of(length, self.density, self.mean_span)
        return length - noise + spans, length


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The first `share` of a text is the source, the rest the target (1910.10683, section
    3.2.1)."""

    share: float = 0.5

    sights: ClassVar[tuple[Sight, ...]] = ("source",)
    special: ClassVar[int] = 0

    def lengths(self, length: int) -> tuple[int, int]:
        """The two parts."""
        source = min(max(round(length * self.share), 1), length - 1)
        return source, length - source


OBJECTIVES: dict[str, type[Any]] = {
    "causal": Causal,
    "multi_token": MultiToken,
    "masked": Masked,
    "replaced_token": ReplacedToken,
    "span_corruption": SpanCorruption,
    "infilling": Infilling,
    "prefix": Prefix,
}


def objective(options: dict[str, Any]) -> Any:
    """The objective that resolved recipe options describe."""
    rest = {name: value for name, value in options.items() if name != "type"}
    return OBJECTIVES[options["type"]](**rest)


def spans_of(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """Hidden tokens and spans in a row: T5's rounding, at least one of each, one token kept."""
    noise = min(max(round(length * density), 1), length - 1)
    return noise, max(min(round(noise / mean_span), noise, length - noise), 1)
