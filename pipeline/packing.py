"""Which run starts next: a queue of jobs of several widths that keeps a cluster busy to the end.

The widest go first and of one width the longest: what follows is never wider than what has just
ended, so that no device waits for others to come free, and wide jobs never starve. A job that would
outlast all other work goes before its turn. Where the first does not fit (it came late: a retry, a
branch, a new node), its devices are kept for it from the time at which enough will be free, and
others may run before that or beside it.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right, insort_left
from collections.abc import Collection, Iterable, Iterator
from itertools import count
from typing import Generic, Protocol, TypeVar

EPSILON = 1e-9
"""Fractions of a device that add up to one may miss it by this."""


class Job(Protocol):
    """What the queue needs to know."""

    @property
    def expected(self) -> float:
        """Seconds that it should take."""

    @property
    def width(self) -> float:
        """Devices that it takes."""

    @property
    def priority(self) -> int:
        """A higher one goes first."""


J = TypeVar("J", bound=Job)
Running = Collection[tuple[float, float]]
"""The expected end and the width of every job that runs."""


class Queue(Generic[J]):
    """Jobs that wait; times are seconds on any one clock."""

    def __init__(self, jobs: Iterable[J] = ()) -> None:
        self._lanes: dict[tuple[int, float], list[J]] = {}
        self._area = 0.0
        for job in jobs:
            self.add(job)

    def add(self, job: J) -> None:
        """Put a job where it belongs."""
        lane = self._lanes.setdefault((job.priority, job.width), [])
        insort_left(lane, job, key=_expected)  # of equal ones the first added stands last
        self._area += job.expected * job.width

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __iter__(self) -> Iterator[J]:
        for key in sorted(self._lanes, reverse=True):
            yield from reversed(self._lanes[key])

    @property
    def area(self) -> float:
        """Expected device-seconds of all that wait."""
        return max(self._area, 0.0)

    def take(
        self,
        now: float,
        free: float,
        capacity: float,
        running: Running,
        within: float = math.inf,
    ) -> J | None:
        """Remove and return the job to start now on ``free`` of ``capacity`` devices, if any.

        ``within`` are the device-seconds that it may be expected to take.
        """
        first = self._first(now, capacity, running, within)
        if first is None:
            return None
        if first.width <= free + EPSILON:
            return self._remove(first)
        opening, spare = _opening(first.width, now, free, running)
        for priority, width in sorted(self._lanes, reverse=True):
            if width <= free + EPSILON:
                longest = math.inf if width <= spare + EPSILON else opening - now
                lane = self._lanes[priority, width]
                if job := _longest(lane, min(longest, within / width)):
                    return self._remove(job)
        return None

    def _first(self, now: float, capacity: float, running: Running, within: float) -> J | None:
        heads = [
            job for key, lane in self._lanes.items() if (job := _longest(lane, within / key[1]))
        ]
        if not heads:
            return None
        top = max(job.priority for job in heads)
        heads = [job for job in heads if job.priority == top]
        left = self._area + sum(max(end - now, 0.0) * width for end, width in running)
        longest = max(heads, key=_expected)
        if longest.expected * capacity >= left:
            return longest
        return max(heads, key=lambda job: job.width)

    def _remove(self, job: J) -> J:
        key = (job.priority, job.width)
        lane = self._lanes[key]
        place = bisect_right(lane, job.expected, key=_expected) - 1
        while lane[place] is not job:
            place -= 1
        del lane[place]
        if not lane:
            del self._lanes[key]
        self._area -= job.expected * job.width
        return job


def makespan(jobs: Iterable[J], capacity: float) -> float:
    """Wall seconds of jobs that take what is expected of them, in the order of the queue."""
    queue, running = Queue(jobs), list[tuple[float, float]]()
    now, free, tie = 0.0, capacity, count()
    ends: list[tuple[float, int, float]] = []
    while queue or ends:
        job = queue.take(now, free, capacity, running)
        if job is not None:
            free -= job.width
            heapq.heappush(ends, (now + job.expected, next(tie), job.width))
            running.append((now + job.expected, job.width))
            continue
        if not ends:
            return math.inf  # one is wider than the whole cluster
        now, _, width = heapq.heappop(ends)
        running.remove((now, width))
        free += width
    return now


def _expected(job: Job) -> float:
    return job.expected


def _longest(lane: list[J], limit: float) -> J | None:
    """The longest of a lane that is expected to take at most ``limit`` seconds."""
    place = len(lane) if limit == math.inf else bisect_right(lane, limit, key=_expected)
    return lane[place - 1] if place else None


def _opening(width: float, now: float, free: float, running: Running) -> tuple[float, float]:
    """When ``width`` devices should be free, and how many others will be."""
    for end, released in sorted(running):
        free += released
        if free >= width - EPSILON:
            return max(end, now), free - width
    return math.inf, free
