"""The end of a journal tells what all of it would, however long it is."""

from pipeline.tail import Tail, read_tail
from pipeline.training import PAUSED


def test_it_agrees_with_the_whole_journal(attempt, tmp_path):
    from launch.journal import read_run

    folder = attempt(
        steps=range(10, 4000, 10), aux={"load": 0.5} | {f"a{i}": 1.0 for i in range(20)}
    )
    tail, whole = read_tail(folder), read_run(folder)
    assert (tail.status, tail.attempts) == (whole.status, len(whole.attempts))
    assert (tail.loss, tail.bits_per_byte) == (whole.evals[-1].loss, whole.evals[-1].bits_per_byte)
    assert (tail.train_loss, tail.mfu) == (whole.points[-1].loss, whole.points[-1].mfu)
    assert tail.step == whole.points[-1].step == 3990


def test_what_an_earlier_attempt_wrote_is_not_the_last_ones(attempt):
    folder = attempt(steps=range(10, 60, 10), end="failed", reason="rank 0 was killed")
    assert (read_tail(folder).status, read_tail(folder).reason) == ("failed", "rank 0 was killed")
    attempt(steps=(), end=None, resumed_from=40)
    tail = read_tail(folder)
    assert (tail.status, tail.attempts, tail.step, tail.train_loss) == ("running", 2, 40, None)


def test_a_run_without_a_journal_is_planned_and_a_claimed_one_queued(tmp_path):
    from launch.journal import FILE, Journal

    assert read_tail(tmp_path) == Tail()
    with Journal(tmp_path / FILE, epoch=1) as journal:
        journal.claim()
    assert read_tail(tmp_path).status == "queued"


def test_a_study_is_paused_by_a_file(tmp_path):
    from pipeline.status import pause
    from tests.pipeline.test_plan import study

    made = study()
    made = type(made).model_validate(made.model_dump() | {"output": str(tmp_path)})
    pause(made, off=False)
    assert (made.folder / PAUSED).exists()
    pause(made, off=True)
    assert not (made.folder / PAUSED).exists()
