"""Which run starts next: a queue of jobs of several widths that keeps a cluster busy to the end.

The jobs of one width (and priority) are a lane, of which the longest goes first. A lane is behind
if the devices that it holds will take longer for what it has left than all devices for all that is
left. The widest lane that is behind goes first: so wide jobs are over before narrow ones, which
fill what gaps remain, and never starve. Between lanes that hold devices the one of a warm worker
goes on, since opening another costs seconds. A job that would outlast all other work goes before
its turn. Where the first does not fit, its devices are kept for it from the time at which enough
will be free, and others may run before that or beside it.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right, insort_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
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


@dataclass
class _Lane(Generic[J]):
    """Jobs of one width, the longest last; ``area`` is what they should take in device-seconds."""

    jobs: list[J] = field(default_factory=list)
    area: float = 0.0

    def add(self, job: J) -> None:
        insort_left(self.jobs, job, key=_expected)  # of equal ones the first added stands last
        self.area += job.expected * job.width

    def longest(self, limit: float) -> J | None:
        """The longest that is expected to take at most ``limit`` seconds."""
        place = bisect_right(self.jobs, limit, key=_expected)
        return self.jobs[place - 1] if place else None

    def remove(self, job: J) -> None:
        place = bisect_right(self.jobs, job.expected, key=_expected) - 1
        while self.jobs[place] is not job:
            place -= 1
        del self.jobs[place]
        self.area -= job.expected * job.width


class Queue(Generic[J]):
    """Jobs that wait; times are seconds on any one clock."""

    def __init__(self, jobs: Iterable[J] = ()) -> None:
        self._lanes: dict[tuple[int, float], _Lane[J]] = {}
        for job in jobs:
            self.add(job)

    def add(self, job: J) -> None:
        """Put a job where it belongs."""
        self._lanes.setdefault((job.priority, job.width), _Lane()).add(job)

    def __len__(self) -> int:
        return sum(len(lane.jobs) for lane in self._lanes.values())

    def __iter__(self) -> Iterator[J]:
        for key in sorted(self._lanes, reverse=True):
            yield from reversed(self._lanes[key].jobs)

    @property
    def area(self) -> float:
        """Expected device-seconds of all that wait."""
        return sum(lane.area for lane in self._lanes.values())

    def take(
        self,
        now: float,
        free: float,
        capacity: float,
        running: Running,
        within: float = math.inf,
        warm: Collection[float] = (),
    ) -> J | None:
        """Remove and return the job to start now on ``free`` of ``capacity`` devices, if any.

        ``within`` are the device-seconds that it may be expected to take, ``warm`` the widths of
        workers that wait for one.
        """
        first = self._first(now, capacity, running, within, warm)
        if first is None:
            return None
        if first.width <= free + EPSILON:
            return self._remove(first)
        opening, spare = _opening(first.width, now, free, running)
        for priority, width in sorted(self._lanes, reverse=True):
            if width <= free + EPSILON:
                longest = math.inf if width <= spare + EPSILON else opening - now
                lane = self._lanes[priority, width]
                if job := lane.longest(min(longest, within / width)):
                    return self._remove(job)
        return None

    def _first(
        self,
        now: float,
        capacity: float,
        running: Running,
        within: float,
        warm: Collection[float],
    ) -> J | None:
        heads = {
            key: job for key, lane in self._lanes.items() if (job := lane.longest(within / key[1]))
        }
        if not heads:
            return None
        top = max(priority for priority, _ in heads)
        heads = {key: job for key, job in heads.items() if key[0] == top}
        held, left = defaultdict[float, float](float), defaultdict[float, float](float)
        for end, width in running:
            held[width] += width
            left[width] += max(end - now, 0.0) * width
        all_left = self.area + sum(left.values())
        longest = max(heads.values(), key=_expected)
        if longest.expected * capacity >= all_left:
            return longest

        def lasts(key: tuple[int, float]) -> float:
            """Seconds that a lane's devices will take for what it has left."""
            width = key[1]
            area = self._lanes[key].area + left[width]
            return area / held[width] if held[width] else math.inf

        behind = [key for key in heads if lasts(key) * capacity > all_left]
        if not behind:
            return heads[max(heads, key=lasts)]
        return heads[max(behind, key=lambda key: (not held[key[1]], key[1] in warm, key))]

    def _remove(self, job: J) -> J:
        key = (job.priority, job.width)
        lane = self._lanes[key]
        lane.remove(job)
        if not lane.jobs:
            del self._lanes[key]
        return job


def makespan(jobs: Iterable[J], capacity: float) -> float:
    """Wall seconds of jobs that take what is expected of them, in the order of the queue."""
    queue, running = Queue(jobs), list[tuple[float, float]]()
    now, free, tie = 0.0, capacity, count()
    ends: list[tuple[float, int, float]] = []
    warm: tuple[float, ...] = ()
    while queue or ends:
        job = queue.take(now, free, capacity, running, warm=warm)
        if job is not None:
            free -= job.width
            heapq.heappush(ends, (now + job.expected, next(tie), job.width))
            running.append((now + job.expected, job.width))
            continue
        if not ends:
            return math.inf  # one is wider than the whole cluster
        now, _, width = heapq.heappop(ends)
        running.remove((now, width))
        free, warm = free + width, (width,)
    return now


def _expected(job: Job) -> float:
    return job.expected


def _opening(width: float, now: float, free: float, running: Running) -> tuple[float, float]:
    """When ``width`` devices should be free, and how many others will be."""
    for end, released in sorted(running):
        free += released
        if free >= width - EPSILON:
            return max(end, now), free - width
    return math.inf, free
