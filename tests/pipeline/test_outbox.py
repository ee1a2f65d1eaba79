"""What is owed is a function of the journal alone, however it is cut into portions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.journal import Journal
from pipeline.outbox import Sample, is_settled, owed
from pipeline.sent import SentRun

Attempt = Callable[..., Path]


NOTHING = SentRun("store")


def send_all(folder: Path, sent: SentRun = NOTHING) -> tuple[list[Sample], SentRun]:
    update = owed(folder, sent)
    return update.samples, update.sent


def test_a_whole_run_is_owed_once(attempt: Attempt) -> None:
    folder = attempt()
    samples, sent = send_all(folder)
    assert [sample.step for sample in samples if sample.key == "loss"] == list(range(10, 101, 10))
    assert {sample.key for sample in samples} >= {"tokens", "flops", "aux/balance", "heldout_loss"}
    assert send_all(folder, sent) == ([], sent)


def test_a_resumed_attempt_sends_no_step_twice(attempt: Attempt) -> None:
    folder = attempt(steps=range(10, 71, 10), end=None)
    first, sent = send_all(folder)
    attempt(steps=range(60, 101, 10), resumed_from=50)
    second, sent = send_all(folder, sent)
    steps = [sample.step for sample in first + second if sample.key == "loss"]
    assert steps == list(range(10, 101, 10))
    assert sent.attempt == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(cuts=st.lists(st.integers(0, 6000), max_size=6))
def test_portions_do_not_matter(attempt: Attempt, tmp_path: Path, cuts: list[int]) -> None:
    """A journal sent while it grew, byte by arbitrary byte, gives the samples of one sent whole."""
    journal = tmp_path / "runs" / "dense" / "journal.jsonl"
    if not journal.exists():
        attempt(steps=range(10, 71, 10), end="preempted")
        attempt(steps=range(60, 101, 10), resumed_from=50)
    whole = journal.read_bytes()
    growing = tmp_path / "growing"
    growing.mkdir(exist_ok=True)
    samples, sent = [], NOTHING
    for cut in [*sorted(cuts), len(whole)]:
        (growing / "journal.jsonl").write_bytes(whole[:cut])
        portion, sent = send_all(growing, sent)
        samples += portion
    assert samples == send_all(journal.parent)[0]


def test_a_torn_last_line_waits(attempt: Attempt) -> None:
    folder = attempt(end=None)
    _, sent = send_all(folder)
    sent.write(folder)
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write('{"kind":"step","st')
    assert is_settled(folder, "store")
    assert send_all(folder, sent) == ([], sent)


def test_another_store_has_nothing(attempt: Attempt) -> None:
    folder = attempt()
    replace(send_all(folder)[1], store="one").write(folder)
    assert is_settled(folder, "one")
    assert not is_settled(folder, "two")


def test_what_was_not_finite_is_no_point(attempt: Attempt) -> None:
    samples, _ = send_all(attempt(grad_norm=float("inf")))
    assert "grad_norm" not in {sample.key for sample in samples}


def test_what_the_machine_did_is_told_once(attempt: Attempt) -> None:
    """Such a line stands before that of its step, also where an earlier attempt got further."""
    folder = attempt(steps=[10, 20], end=None)
    with Journal(folder / "journal.jsonl") as journal:
        for step in (20, 30):
            journal.append({"kind": "system", "step": step, "cpu_utilization_percentage": 90.0})
    samples, sent = send_all(folder)
    name = "system/cpu_utilization_percentage"
    assert [sample.step for sample in samples if sample.key == name] == [30]
    assert send_all(folder, sent) == ([], sent)


def test_a_mixture_is_scored_by_its_parts(attempt: Attempt) -> None:
    folder = attempt(steps=[10], end=None)
    with Journal(folder / "journal.jsonl") as journal:
        scores = {"loss": 3.0, "bits_per_byte": None, "parts": {"code": 2.0, "text": 4.0}}
        journal.append({"kind": "eval", "step": 10, "tokens": 1, "flops": 1.0, **scores})
    found = {sample.key: sample.value for sample in send_all(folder)[0]}
    assert (found["heldout_loss/code"], found["heldout_loss/text"]) == (2.0, 4.0)
    assert "heldout_bits_per_byte" not in found


@pytest.mark.parametrize("status", ["finished", "diverged", "preempted"])
def test_the_end_is_told(attempt: Attempt, status: str) -> None:
    update = owed(attempt(end=status), NOTHING)
    assert update.status == status
    assert update.ended is not None
    assert update.ended.step == 100


def test_a_new_attempt_takes_the_end_back(attempt: Attempt) -> None:
    folder = attempt(end="preempted")
    attempt(steps=[], end=None, resumed_from=100)
    update = owed(folder, NOTHING)
    assert (update.status, update.ended, update.tags["attempt"]) == ("running", None, "2")
