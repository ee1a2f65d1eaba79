"""Batches made ahead of time by a thread, in order."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.1


class _Failure(Generic[T]):
    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetch(make: Callable[[int], T], steps: range, ahead: int = 2) -> Iterator[T]:
    """Yield `make(step)` for each step, computed up to `ahead` of them early in another thread (0:
    when it is asked for).

    `make` may also move the batch (pin it, copy it to a device). An error in it is raised where its
    batch would have come. Closing the iterator ends the thread.
    """
    if ahead == 0:
        yield from map(make, steps)
        return
    queue: Queue[T | _Failure[T]] = Queue(maxsize=ahead)
    stopped = Event()

    def put(item: T | _Failure[T]) -> None:
        while not stopped.is_set():
            with suppress(Full):
                return queue.put(item, timeout=POLL_SECONDS)

    def work() -> None:
        try:
            for step in steps:
                if stopped.is_set():
                    return
                put(make(step))
        except BaseException as error:
            put(_Failure(error))

    thread = Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = queue.get()
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stopped.set()
        with suppress(Empty):
            queue.get_nowait()
        thread.join()
