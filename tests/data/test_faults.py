"""Injected faults: what is promised when disks fill, processes die and files rot."""

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from data.corpus import CorpusConfig
from data.errors import DataError
from data.loader import Loader
from data.pieces import Task
from data.prepare import Prepared, Progress, prepare
from data.store import TokenStore
from data.tokenize import run_tasks
from data.tokenizer import TokenizerConfig

MakeCorpus = Callable[..., CorpusConfig]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.pieces.shard_bytes", lambda _: 2000)


@pytest.fixture
def job(
    text_folder: Path, text_corpus: MakeCorpus, prepared: Prepared, small_shards: None
) -> "Job":
    return Job(text_corpus(text_folder), str(prepared.tokenizer))


class Job:
    """One preparation, to be run here or in a forked process that can be killed."""

    def __init__(self, corpus: CorpusConfig, tokenizer: str) -> None:
        self.corpus = corpus
        self.tokenizer = TokenizerConfig(kind="file", path=tokenizer)

    def __call__(self, cache: Path) -> tuple[Prepared, list[Progress]]:
        seen: list[Progress] = []
        return prepare(self.corpus, self.tokenizer, cache, progress=seen.append), seen

    def fork(self, cache: Path) -> BaseProcess:
        def run() -> None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            self(cache)

        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        return process


def token_files(prepared: Prepared) -> dict[str, bytes]:
    root = prepared.train.parent
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_killed_ten_times_the_bytes_are_those_of_an_undisturbed_run(
    job: Job, tmp_path: Path
) -> None:
    chooser = random.Random(0)
    kills = 0
    for _ in range(200):
        process = job.fork(tmp_path / "disturbed")
        process.join(chooser.uniform(0.002, 0.08))
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        if kills == 10:
            break
    disturbed, seen = job(tmp_path / "disturbed")
    undisturbed, all_seen = job(tmp_path / "undisturbed")
    assert kills == 10
    assert len(seen) <= len(all_seen)
    assert token_files(disturbed) == token_files(undisturbed)


def test_resuming_redoes_unfinished_shards_alone(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after = 5

    def stop(progress: Progress) -> None:
        if progress.stage == "tokenize" and progress.done == stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(job.corpus, job.tokenizer, tmp_path, progress=stop)
    _, seen = job(tmp_path)
    assert [progress.done for progress in seen] == list(range(6, seen[-1].total + 1))


def test_a_full_disk_keeps_what_was_there_and_names_the_folder(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, 0

    def fill_up(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill_up)
        with pytest.raises(
            DataError, match=rf"the disk of {tmp_path}.* is full, .* more bytes are needed"
        ):
            job(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.bin")}
    assert kept
    job(tmp_path)
    assert all(path.read_bytes() == data for path, data in kept.items())


@pytest.mark.parametrize("fault", ["flip", "cut", "remove", "swap"])
def test_a_damaged_shard_is_found_before_use_and_made_again(
    job: Job, tmp_path: Path, fault: str
) -> None:
    made, _ = job(tmp_path)
    whole = token_files(made)
    path, other = made.train / "00002.bin", made.train / "00003.bin"
    data = path.read_bytes()
    if fault == "flip":
        path.write_bytes(data[:100] + bytes([data[100] ^ 4]) + data[101:])
    elif fault == "cut":
        path.write_bytes(data[:-1])
    elif fault == "remove":
        path.unlink()
    else:
        path.write_bytes(other.read_bytes())
    with pytest.raises(DataError, match=r"00002\.bin"):
        TokenStore.open(made.train).verify()
    _, seen = job(tmp_path)
    assert len(seen) == 1
    assert token_files(made) == whole


@pytest.mark.parametrize("name", ["manifest.json", "../ledger.json", "../shards/00001.json"])
def test_damaged_records_are_made_again(job: Job, tmp_path: Path, name: str) -> None:
    made, _ = job(tmp_path)
    whole = token_files(made)
    for rubbish in ("", "{", "[1, 2]", '{"format": 1}'):
        (made.train / name).write_text(rubbish)
        (made.train / "manifest.json").write_text(rubbish)
        job(tmp_path)
        assert token_files(made) == whole


def test_eight_jobs_at_once_make_one_store(job: Job, tmp_path: Path) -> None:
    processes = [job.fork(tmp_path) for _ in range(8)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    _, seen = job(tmp_path)
    assert seen == []
    assert len(list((tmp_path / "tokens").glob("*/train"))) == 1


def test_another_world_size_goes_on_with_the_same_samples(prepared: Prepared) -> None:
    loader = Loader(TokenStore.open(prepared.train), 32, 6, seed=5)

    def steps(first: int, last: int, world: int) -> list[np.ndarray]:
        return [
            np.concatenate([loader.batch(step, rank, world).tokens_BT for rank in range(world)])
            for step in range(first, last)
        ]

    resumed = steps(0, 5, 2) + steps(5, 9, 1) + steps(9, 14, 2)
    assert np.array_equal(resumed, steps(0, 14, 1))


GIANT = """
import resource, sys
from pathlib import Path
from data.corpus import CorpusConfig
from data.prepare import prepare
from data.tokenizer import TokenizerConfig

kind, root, tokenizer, cache = sys.argv[1:]
corpus = CorpusConfig(name="giant", source={"kind": kind, "path": root}, heldout=0.2)
made = prepare(corpus, TokenizerConfig(kind="file", path=tokenizer), Path(cache))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, made.ledger.to_dict())
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_a_document_of_a_gigabyte_takes_bounded_memory(
    kind: str, prepared: Prepared, tmp_path: Path
) -> None:
    """Without a newline or a space. As JSON it is a line too long, dropped and counted."""
    root = tmp_path / "corpus"
    root.mkdir()
    suffix, before, after = (
        ("txt", b"", b"") if kind == "text" else ("jsonl", b'{"text": "', b'"}\n')
    )
    block = random.Random(0).randbytes(1 << 19).hex().encode()
    with (root / f"giant.{suffix}").open("wb") as file:
        file.write(before)
        for _ in range(1 << 10):
            file.write(block)
        file.write(after)
    for number in range(50):
        (root / f"{number}.{suffix}").write_bytes(before + b"document %d" % number + after)
    command = [sys.executable, "-c", GIANT, kind, tmp_path / "corpus", prepared.tokenizer, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    peak, ledger = done.stdout.split(" ", 1)
    assert int(peak) < 1.5e9
    assert ("line_too_long" if kind == "jsonl" else "split") in ledger


def kill_once(folder: Path, task: Task) -> int:
    """Kill the worker the first time that each task comes to it."""
    try:
        (folder / task.name).touch(exist_ok=False)
    except FileExistsError:
        return task.number
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return -1


@pytest.mark.cluster
def test_tasks_of_killed_workers_are_done_again(tmp_path: Path) -> None:
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        tasks = [Task(number, ()) for number in range(3)]
        results: dict[int, int] = {}
        run_tasks(kill_once, tmp_path, tasks, 2, lambda t, r: results.update({t.number: r}))
    finally:
        ray.shutdown()
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert results == {0: 0, 1: 1, 2: 2}
