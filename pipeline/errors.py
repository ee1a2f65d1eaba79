"""What can go wrong before, in and after a study, as one small tree.

IsoflopError
├── ConfigError    a file or an override is wrong: names file, key, given, allowed
├── KeyedError     one fault of a configuration, before its place in the file is known
├── BusyError      another process leads this study
├── LostLeadError  another process took the lead of this study
└── StudyError     the study cannot go on: missing data, no finished run, a stage failed

StoppedError is none of them: a KeyboardInterrupt, and what became of the runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class IsoflopError(ValueError):
    """A mistake the user can mend; the command prints its message and no traceback."""

    exit_code = 2


class ConfigError(IsoflopError):
    """One or several faults of a configuration, each a line ``file:line:column: key: what``."""

    def __init__(self, faults: Iterable[str]):
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


class KeyedError(IsoflopError):
    """What is wrong with ``key``: ``ConfigError`` tells it with its place."""

    def __init__(self, message: str, key: tuple[str | int, ...]):
        self.key = key
        super().__init__(message)


class BusyError(IsoflopError):
    """Another process leads the study."""

    exit_code = 3


class LostLeadError(IsoflopError):
    """Another process leads the study now, since this one seemed dead to it."""

    exit_code = 4


class StudyError(IsoflopError):
    """The study cannot go on as it stands."""


class StoppedError(KeyboardInterrupt):
    """Training was interrupted; of the runs that went on, ``unsaved`` did not save their state."""

    def __init__(self, unsaved: Iterable[str]):
        self.unsaved = list(unsaved)
        super().__init__(self.unsaved)


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'budgets'?"`` for a near miss, otherwise nothing."""
    close = get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
