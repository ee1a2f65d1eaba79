"""What an analysis has to say beside its numbers: typed notices, and the errors that carry them.

    AnalysisError (ValueError)
    ├── TableError     the table itself is at fault: names its columns and rows
    └── RefusedError   the table is sound but cannot answer; carries a Notice

A notice names the rows it is about by their position in the table that was given, counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


class AnalysisError(ValueError):
    """A question that the given table, law or budget does not allow."""


class TableError(AnalysisError):
    """A table that cannot be read as measurements."""


@dataclass(frozen=True)
class Notice:
    """One remark on a fit: what is the matter, in a sentence, and the rows it is about."""

    message: str
    rows: tuple[int, ...] = ()

    kinds: ClassVar[dict[str, type[Notice]]] = {}

    def __init_subclass__(cls) -> None:
        Notice.kinds[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """`{type, rows, message}` and whatever else the type carries."""
        fields = asdict(self)
        head = {"type": type(self).__name__, "rows": list(fields.pop("rows"))}
        return head | fields

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Notice:
        """The notice that `to_dict` was called on."""
        fields = dict(fields)
        kind = Notice.kinds[fields.pop("type")]
        return kind(rows=tuple(fields.pop("rows")), **fields)


class NotIdentifiable(Notice):
    """The design leaves a parameter free, whatever the losses are."""


class WeaklyIdentified(Notice):
    """The data allow a parameter to run to the end of its range."""


class ParameterAtBound(Notice):
    """The best fit itself lies at the end of a parameter's range."""


class TooFewPoints(Notice):
    """Fewer points than the question needs."""


class FewClusters(Notice):
    """Few runs, or seeds, were drawn from for the intervals."""


class VertexOutside(Notice):
    """The minimum of an IsoFLOP profile lies outside its points."""


class CurvatureNotPositive(Notice):
    """An IsoFLOP profile has no minimum."""


class DuplicatedRows(Notice):
    """Rows that repeat another row's measurement; each was counted once."""


class Diverged(Notice):
    """Runs left out because their training diverged."""


class Unfinished(Notice):
    """Runs left out because they did not reach their end."""


class MixedArchitectures(Notice):
    """One law fitted to the runs of several architectures."""


class ObjectivesDiffer(Notice):
    """Architectures trained on different objectives: their losses are not on one scale."""


class ApproachesDisagree(Notice):
    """The IsoFLOP profiles and the parametric fit do not tell the same story."""


class ComputeNotPowerLaw(Notice):
    """The runs' own FLOPs a token do not follow one power of the parameter count."""


class WarmupLong(Notice):
    """Runs that spend much of their tokens warming up."""


class DecayUnmatched(Notice):
    """Runs whose learning-rate decay does not end with them."""


class BatchAboveCritical(Notice):
    """Runs whose batch is larger than their loss can use."""


class LearningRateAtEdge(Notice):
    """Runs whose learning rate lies at the end of the range it was chosen from."""


class StartsDisagree(Notice):
    """Few of the starts reached the best objective."""


@dataclass(frozen=True)
class Extrapolating(Notice):
    """An answer beyond the largest compute in the table, by `factor`."""

    factor: float = 1.0


class RefusedError(AnalysisError):
    """The table is sound but cannot answer; `notice` says why and on account of which rows."""

    def __init__(self, notice: Notice) -> None:
        super().__init__(notice.message)
        self.notice = notice


def rows_of(values: Iterable[object]) -> tuple[int, ...]:
    """Row positions as plain, sorted integers."""
    return tuple(sorted(int(str(value)) for value in values))
