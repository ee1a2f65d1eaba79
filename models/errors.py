"""The one error of this package.

ValueError
└── RecipeError   a recipe or a shape that cannot be built
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

Key = tuple[str | int, ...]


class RecipeError(ValueError):
    """What is wrong in a recipe, in one sentence.

    `key` is the path inside the recipe's dict, `given` what stood there, `allowed` what may stand
    there (names, or a description).
    """

    def __init__(self, key: Key, given: object, allowed: Iterable[Any] | str, what: str) -> None:
        self.key = key
        self.given = given
        self.allowed = allowed if isinstance(allowed, str) else tuple(allowed)
        self.what = what
        super().__init__()

    def within(self, *prefix: str | int) -> RecipeError:
        """The same error seen from further up the recipe."""
        return RecipeError((*prefix, *self.key), self.given, self.allowed, self.what)

    def __str__(self) -> str:
        place = ".".join(map(str, self.key)) or "recipe"
        return f"{place}: {self.what}: {self.given!r}{self._nearest()}; {self._allowed()}"

    def _nearest(self) -> str:
        if isinstance(self.allowed, str) or not isinstance(self.given, str):
            return ""
        close = get_close_matches(self.given, [str(name) for name in self.allowed], 1)
        return f" (did you mean {close[0]!r}?)" if close else ""

    def _allowed(self) -> str:
        if isinstance(self.allowed, str):
            return f"allowed: {self.allowed}"
        return "allowed: " + (", ".join(map(str, self.allowed)) or "nothing")
