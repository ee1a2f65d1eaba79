import random
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from data.corpus import MIB, Catalog, CorpusConfig, CorpusFile, scan
from data.documents import SIDES, Placed
from data.encode import cut, encode
from data.errors import DataError
from data.pieces import Piece, Task, pieces, plan, shard_bytes
from data.prepare import Prepared
from data.store import TokenStore
from data.text import clean
from data.tokenize import Job, Record, record_path, tokenize
from data.tokenizer import Tokenizer
from data.words import PATTERNS, Encoder


@pytest.mark.parametrize("pattern", PATTERNS, ids=["gpt2", "llama3", "qwen2"])
@settings(deadline=None)
@given(text=st.text(st.sampled_from("ab \n\t'é1."), max_size=200), size=st.integers(1, 30))
def test_a_cut_text_has_the_same_words(pattern: str, text: str, size: int) -> None:
    split = Split(Regex(pattern), "isolated").pre_tokenize_str
    parts = list(cut(text, size))
    assert "".join(parts) == text
    assert all(0 < len(part) <= size for part in parts[:-1])
    if all(parted(before[-1], after[0]) for before, after in pairwise(parts)):
        words = [word for part in parts for word, _ in split(part)]
        assert words == [word for word, _ in split(text)]


@pytest.mark.parametrize("unit", ["\n", ";\n", " ", "x", ".", "_\n"])
def test_cutting_takes_time_in_proportion(unit: str) -> None:
    started = time.process_time()
    parts = list(cut("x" + unit * (1 << 20), 1 << 18))
    assert all(len(part) <= 1 << 18 for part in parts)
    assert time.process_time() - started < 5


def parted(last: str, first: str) -> bool:
    """Whether a text was cut where a place was, not for want of one."""
    return (first == " " and not last.isspace()) or (first == "\n" and last.isalnum())


@pytest.mark.parametrize("size", [7, 60, 10_000])
def test_tokens_do_not_depend_on_the_batches(
    prepared: Prepared, text_folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.encode.BATCH_CHARS", size)
    tokenizer = Tokenizer.load(prepared.tokenizer)
    texts = [path.read_text() for path in sorted(text_folder.rglob("*.txt"))[:8]] + ["x" * 50, "y"]
    placed = [Placed(clean(text), "train", b"") for text in texts]
    found = [tokens.tolist() for _, tokens in encode(Encoder(tokenizer), placed)]
    whole = slice(0, 8) if size > 7 else slice(9, 10)  # shorter than a word, parts may differ
    expected = [[*tokenizer.encode(text), tokenizer.end_of_document] for text in texts]
    assert found[whole] == expected[whole]
    assert [tokenizer.decode(tokens[:-1]) for tokens in found] == texts


CODE = {"name": "c", "source": {"kind": "code"}}


def catalog_of(sizes: list[int]) -> Catalog:
    return Catalog(tuple(CorpusFile(str(n), size) for n, size in enumerate(sizes)), "digest")


def test_shards_are_consecutive_pieces_of_bounded_size() -> None:
    config = CorpusConfig.model_validate(CODE)
    chooser = random.Random(0)
    catalog = catalog_of([chooser.randrange(3 * MIB) for _ in range(200)])
    tasks = plan(config, catalog)
    assert [piece for task in tasks for piece in task.pieces] == pieces(config, catalog)
    target = shard_bytes(catalog.size)
    sizes = [sum(piece.size or 0 for piece in task.pieces) for task in tasks]
    assert all(size <= target for size in sizes)
    assert all(a + b > target for a, b in pairwise(sizes))


def test_a_long_file_of_lines_is_read_in_parts() -> None:
    config = CorpusConfig.model_validate({"name": "c", "source": {"kind": "jsonl", "path": "x"}})
    parts = pieces(config, catalog_of([100 * MIB]))
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == 100 * MIB
    assert len(parts) == 32


@pytest.mark.parametrize(
    ("documents", "limits"),
    [(None, [None] * 4), (10, [10]), (2500, [834, 833, 833]), (8001, [2001, 2000, 2000, 2000])],
)
def test_max_documents_is_shared_among_spread_shards(
    documents: int | None, limits: list[int | None]
) -> None:
    config = CorpusConfig.model_validate(CODE | {"max_documents": documents})
    tasks = plan(config, catalog_of([2 * MIB] * 4))
    assert [task.limit for task in tasks] == limits


@pytest.fixture
def job(prepared: Prepared, text_folder: Path, tmp_path: Path) -> Job:
    source = {"kind": "text", "path": str(text_folder)}
    corpus = CorpusConfig.model_validate({"name": "c", "source": source, "heldout": 0.2})
    tokenizer = Tokenizer.load(prepared.tokenizer)
    for name in (*SIDES, "shards"):
        (tmp_path / name).mkdir()
    return Job(tmp_path, corpus, tokenizer.text, tokenizer.end_token)


def six_tasks(job: Job) -> list[Task]:
    found = pieces(job.corpus, scan(job.corpus))
    return [Task(n, tuple(found[n * 10 : n * 10 + 10]), None) for n in range(6)]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_shards_hold_their_documents(job: Job, prepared: Prepared) -> None:
    records: list[Record] = []
    tokenize(job, six_tasks(job), 0, lambda _, record: records.append(record))
    for side in SIDES:
        store = TokenStore.open(getattr(prepared, side))
        parts = [
            np.fromfile(job.folder / side / f"{number:05d}.bin", store.dtype) for number in range(6)
        ]
        assert np.array_equal(np.concatenate(parts), store.window(0, store.n_tokens))
    assert sum(record.tally.read for record in records) == 60


def test_a_record_reads_back(job: Job) -> None:
    task = six_tasks(job)[0]
    records: list[Record] = []
    tokenize(job, [task], 0, lambda _, record: records.append(record))
    assert Record.load(record_path(job.folder, task)) == records[0]


def test_an_interrupted_shard_leaves_no_file(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("data.tokenize.Writer.index", stop)
    with pytest.raises(KeyboardInterrupt):
        tokenize(job, six_tasks(job)[:1], 0, lambda *_: None)
    assert not record_path(job.folder, six_tasks(job)[0]).exists()
    assert not [name for name in files(job.folder) if name.endswith(".tmp")]


def test_workers_need_ray_to_be_initialised(job: Job) -> None:
    with pytest.raises(RuntimeError, match=r"ray\.init"):
        tokenize(job, six_tasks(job), 2, lambda *_: None)


@pytest.mark.cluster
@pytest.mark.parametrize("numbers", [(1, 2, 3), pytest.param((7,), marks=pytest.mark.slow)])
def test_stores_are_the_same_for_any_number_of_workers(
    job: Job, tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    import ray

    tokenize(job, six_tasks(job), 0, lambda *_: None)
    expected = files(job.folder)
    ray.init(address="local", num_cpus=max(numbers), include_dashboard=False, log_to_driver=False)
    try:
        for workers in numbers:
            folder = tmp_path / f"by-{workers}"
            for name in (*SIDES, "shards"):
                (folder / name).mkdir(parents=True)
            again = Job(folder, job.corpus, job.tokenizer, job.end_of_document)
            tokenize(again, six_tasks(job), workers, lambda *_: None)
            assert files(folder) == expected
        missing = Task(9, (Piece(str(tmp_path / "gone.txt"), 0, 1, 1),), None)
        with pytest.raises(DataError, match="cannot read"):
            tokenize(job, [missing], 1, lambda *_: None)
    finally:
        ray.shutdown()
