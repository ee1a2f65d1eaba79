import threading
import time

import pytest

from data.prefetch import prefetch


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def test_batches_come_in_order() -> None:
    assert list(prefetch(lambda step: step * step, range(3, 50))) == [s * s for s in range(3, 50)]
    assert threads() == 0


def test_work_runs_ahead_but_not_further_than_asked() -> None:
    made: list[int] = []
    batches = prefetch(lambda step: made.append(step) or step, range(100), ahead=3)
    assert next(batches) == 0
    time.sleep(0.3)
    assert 4 <= len(made) <= 5
    batches.close()
    assert threads() == 0


def test_an_error_comes_where_its_batch_would() -> None:
    def make(step: int) -> int:
        if step == 3:
            raise ValueError("bad shard")
        return step

    batches = prefetch(make, range(10))
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="bad shard"):
        next(batches)
    assert threads() == 0


def test_an_abandoned_iterator_ends_its_thread() -> None:
    batches = prefetch(lambda step: step, range(10**9))
    next(batches)
    del batches
    assert threads() == 0
