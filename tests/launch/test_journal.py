"""A journal tells the run's one story, whatever happened to its writers."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.journal import FILE, LINES, FencedError, Journal, read_run
from launch.tail import read_tail


def step(number: int) -> dict:
    return {
        "kind": "step",
        "step": number,
        "tokens": number,
        "flops": 1.0,
        "loss": 1 / number,
        "learning_rate": 0.1,
        "grad_norm": 1.0,
        "tokens_per_second": 1.0,
        "mfu": 0.1,
    }


def write(folder: Path, attempts: list[tuple[int | None, int]]) -> None:
    """Attempts as (resumed from, last step)."""
    for resumed, last in attempts:
        with Journal(folder / FILE) as journal:
            journal.begin(resumed_from=resumed)
            for number in range((resumed or 0) + 1, last + 1):
                journal.append(step(number))


@given(data=st.data(), lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_no_step_twice_and_none_missing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, lengths: list[int]
):
    folder = tmp_path_factory.mktemp("run")
    reached, attempts = 0, []
    for length in lengths:
        resumed = data.draw(st.integers(0, reached))
        reached = resumed + length
        attempts.append((resumed or None, reached))
    write(folder, attempts)
    run = read_run(folder)
    assert [point.step for point in run.points] == list(range(1, reached + 1))
    assert len(run.attempts) == len(lengths)
    assert read_tail(folder).step == reached


@given(cut=st.integers(1, 60))
def test_a_torn_line_is_cut_off_and_the_rest_kept(
    tmp_path_factory: pytest.TempPathFactory, cut: int
):
    folder = tmp_path_factory.mktemp("run")
    write(folder, [(None, 3)])
    path = folder / FILE
    os.truncate(path, path.stat().st_size - cut)
    assert [point.step for point in read_run(folder).points] == [1, 2]
    with Journal(path) as journal:
        journal.append(step(3))
    assert [point.step for point in read_run(folder).points] == [1, 2, 3]


def test_an_earlier_writer_is_fenced_off(tmp_path: Path):
    first = Journal(tmp_path / FILE)
    first.begin(resumed_from=None)
    second = Journal(tmp_path / FILE)
    second.begin(resumed_from=None)
    with pytest.raises(FencedError):
        first.append(step(1))
    second.append(step(1))
    assert [attempt.attempt for attempt in read_run(tmp_path).attempts] == [1, 2]


def test_a_line_that_a_full_disk_takes_in_part_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The system says so by a count alone; a later line would join the torn one for ever."""
    write_all = os.write
    with Journal(tmp_path / FILE) as journal:
        journal.begin(resumed_from=None)
        journal.append(step(1))
        with monkeypatch.context() as full:
            full.setattr(os, "write", lambda fd, line: write_all(fd, line[:20]))
            with pytest.raises(OSError, match=r"No space left on device.*journal\.jsonl"):
                journal.append(step(2))
        assert read_tail(tmp_path).step == 1
        journal.append(step(2))
    assert [point.step for point in read_run(tmp_path).points] == [1, 2]
    assert read_tail(tmp_path).step == 2


def test_whoever_waits_for_the_disk_learns_that_another_writes(tmp_path: Path):
    """A checkpoint is made the newest after that: it must not be one of a run that has moved on."""
    first = Journal(tmp_path / FILE)
    first.begin(resumed_from=None)
    first.sync()
    with Journal(tmp_path / FILE, epoch=1) as driver:
        driver.claim()
        driver.sync()
    with pytest.raises(FencedError, match="another attempt"):
        first.sync()


def test_every_kind_of_line_is_kept_by_its_step(tmp_path: Path):
    """What a later attempt does again is left out, whatever kind of line it was."""
    extra: dict[str, dict] = {
        "step": step(2),
        "eval": {"tokens": 2, "flops": 1.0, "loss": 1.0, "bits_per_byte": None},
        "health": {"grad_norm": {"head": 1.0}},
        "spike": {"loss": 9.0, "deviations": 12.0, "skipped": False},
        "straggler": {"rank": 1, "ratio": 2.0},
        "checkpoint": {"path": "there", "bytes": 1, "seconds": 1.0},
    }
    with Journal(tmp_path / FILE) as journal:
        journal.begin(resumed_from=None)
        for number in (1, 2):
            for kind, values in extra.items():
                journal.append({**values, "kind": kind, "step": number})
        journal.append({"kind": "system", "step": 2, "cpu": 1.0})
        journal.begin(resumed_from=1)
    run = read_run(tmp_path)
    assert extra.keys() == LINES.keys()
    for name, kind in LINES.values():
        [line] = getattr(run, name)
        assert isinstance(line, kind)
        assert line.step == 1


def test_readers_drop_what_an_earlier_attempt_wrote_late(tmp_path: Path):
    write(tmp_path, [(None, 2), (1, 1)])
    with (tmp_path / FILE).open("a") as file:
        file.write(json.dumps({**step(2), "time": 0.0, "attempt": 1}) + "\n")
    assert [point.step for point in read_run(tmp_path).points] == [1]
    assert (read_tail(tmp_path).attempts, read_tail(tmp_path).step) == (2, 1)


def test_status_follows_the_last_attempt(tmp_path: Path):
    assert read_run(tmp_path).status == read_tail(tmp_path).status == "planned"
    write(tmp_path, [(None, 2)])
    assert read_run(tmp_path).status == read_tail(tmp_path).status == "running"
    with Journal(tmp_path / FILE) as journal:
        journal.append({"kind": "end", "step": 2, "status": "failed", "reason": "it broke"})
    assert read_run(tmp_path).status == read_tail(tmp_path).status == "failed"
    assert read_tail(tmp_path).reason == "it broke"
    write(tmp_path, [(2, 3)])
    assert read_run(tmp_path).status == read_tail(tmp_path).status == "running"


def test_the_tail_reads_only_the_end_of_a_long_journal(tmp_path: Path):
    write(tmp_path, [(None, 2000)])
    damaged = bytearray((tmp_path / FILE).read_bytes())
    damaged[:1000] = b"x" * 1000
    (tmp_path / FILE).write_bytes(damaged)
    assert read_tail(tmp_path).step == 2000
