"""A gang that is lost says why, in one plain line, and in its run's journal."""

from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from launch import gang
from launch.gang import Gang, told
from launch.journal import FILE, FencedError, Journal
from launch.tail import read_tail

TRACEBACK = (
    "\x1b[36mray::Worker.__init__()\x1b[39m (pid=7, ip=127.0.0.1, actor_id=a)\n"
    "RuntimeError: The actor with name Worker failed to import on the worker:\n\n"
    "Traceback (most recent call last):\n"
    '  File "worker.py", line 1, in <module>\n'
    "    import torch\n"
    "ImportError: libcudart.so.13: cannot open shared object file\n"
    "  Check the installation, or ask who made it.\n"
)


def test_the_cause_of_a_process_that_could_not_be_made_is_its_last_exception():
    cause = RayTaskError("Worker.__init__", TRACEBACK, ImportError("libcudart.so.13"), "w", 7, "::")
    assert told(ActorDiedError(cause)) == (
        "a rank's process could not be made: "
        "ImportError: libcudart.so.13: cannot open shared object file"
    )


def test_a_process_that_died_later_is_told_by_rays_summary():
    assert told(ActorDiedError()) == (
        "a rank's process died: The actor died unexpectedly before finishing this task."
    )


def test_a_rank_that_writes_while_it_is_killed_does_not_leave_its_run_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last line comes between reading the journal's end and writing there."""
    killed = Journal(tmp_path / FILE)
    killed.begin()
    words = iter([1, 2])

    class Overtaken(Journal):
        def append(self, record: dict[str, Any], *, sync: bool = False) -> None:
            if (step := next(words, None)) is not None:
                killed.append({"kind": "checkpoint", "step": step})
            super().append(record, sync=sync)

    monkeypatch.setattr(gang, "Journal", Overtaken)
    gone = Gang.__new__(Gang)
    gone._folder, gone._epoch = tmp_path, None
    gone._end(2, "its process died")
    assert (read_tail(tmp_path).status, read_tail(tmp_path).reason) == (
        "failed",
        "its process died",
    )
    with pytest.raises(FencedError):
        killed.append({"kind": "checkpoint", "step": 3})
