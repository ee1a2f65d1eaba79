import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from data.corpus import CorpusConfig, scan
from data.documents import Tally, documents
from data.errors import DataError
from data.pieces import Piece, Task, pieces
from data.readers import dataset

TEXTS = [f"document {number} — ünïcode\nsecond line" for number in range(50)]


def config(kind: str, path: Path, **changes: object) -> CorpusConfig:
    fields = {"name": "c", "source": {"kind": kind, "path": str(path)}}
    return CorpusConfig.model_validate(fields | changes)


def read(corpus: CorpusConfig) -> tuple[list[str], Tally]:
    tally = Tally()
    found = documents(corpus, Task(0, tuple(pieces(corpus, scan(corpus)))), tally)
    return [placed.document.text for placed in found], tally


def lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"id": 1, "text": text}).encode() + b"\n" for text in texts)


def write_parquet(path: Path, texts: list[str | None], **options: object) -> None:
    parquet.write_table(pa.table({"text": pa.array(texts, pa.string())}), path, **options)


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.jsonl": lambda path: path.write_bytes(lines(TEXTS)) and None,
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(TEXTS))) and None,
    "a.jsonl.zst": lambda path: (
        path.write_bytes(
            zstandard.compress(lines(TEXTS[:20])) + zstandard.compress(lines(TEXTS[20:]))
        )
        and None
    ),
    "a.parquet": lambda path: write_parquet(path, list(TEXTS), row_group_size=7),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    texts, tally = read(config(name.split(".")[1], tmp_path))
    assert texts == TEXTS
    assert tally.read == 50
    assert tally.dropped.total() == tally.repaired.total() == 0


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_a_file_cut_short_is_named_or_counted(name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    kind = name.split(".")[1]
    if name == "a.jsonl":  # plain text has no end to miss: the cut line alone is lost
        texts, tally = read(config(kind, tmp_path))
        assert (tally.dropped["malformed"], texts) == (1, TEXTS[: len(texts)])
        return
    with pytest.raises(DataError, match=f"cannot read {path}") as error:
        read(config(kind, tmp_path))
    assert error.value.key == ("corrupt_files",)
    texts, tally = read(config(kind, tmp_path, corrupt_files="skip"))
    assert texts == TEXTS[: len(texts)]
    assert tally.dropped == {"corrupt_file": 1}
    assert tally.damaged_files == [str(path)]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_rubbish_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"rubbish" * 100)
    with pytest.raises(DataError, match="cannot read"):
        read(config(name.split(".")[1], tmp_path))


@settings(deadline=None)
@given(st.lists(st.text(max_size=20), max_size=12), st.integers(1, 60))
def test_lines_read_in_parts_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], step: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    data = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts).removesuffix(
        b"\n"
    )
    path.write_bytes(data)
    parts = [
        Piece(str(path), start, min(start + step, len(data)), step)
        for start in range(0, len(data), step)
    ]
    rows = dataset(config("jsonl", path), parts)
    assert [row["text"] for row in rows] == texts


def test_bad_lines_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.readers.LINE_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "good"}\n'
        b"\n"
        b"{nonsense\n"
        b'["a", "list"]\n'
        b'{"text": 7}\n'
        b'{"other": "x"}\n'
        b'{"text": "bad \xff byte"}\n'
        b'{"text": "half \\ud800"}\n'
        b'{"text": "' + b"x" * 500 + b'"}\n'
        b'{"text": "' + b"y" * 88 + b'"}\n'
        b'{"text": "last"}'
    )
    texts, tally = read(config("jsonl", path))
    assert texts == ["good", "bad \ufffd byte", "half \ufffd", "y" * 88, "last"]
    assert tally.dropped == {"malformed": 4, "line_too_long": 1}
    assert tally.repaired == {"invalid_utf8": 1, "lone_surrogate": 1}
    assert tally.read == 5


def test_deeply_nested_json_is_malformed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": ' + b"[" * 100_000 + b"\n")
    assert read(config("jsonl", path))[1].dropped == {"malformed": 1}


def test_parquet_nulls_and_invalid_bytes_are_counted(tmp_path: Path) -> None:
    texts = pa.array([b"fine", None, b"bad \xff"], pa.binary())
    array = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    parquet.write_table(pa.table({"text": array}), tmp_path / "a.parquet")
    found, tally = read(config("parquet", tmp_path))
    assert found == ["fine", "bad \ufffd"]
    assert tally.dropped == {"malformed": 1}
    assert tally.repaired == {"invalid_utf8": 1}


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_misnamed_text_column_is_an_error(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    with pytest.raises(DataError, match="no column 'texts', did you mean 'text'") as error:
        read(config(name.split(".")[1], tmp_path, text_column="texts"))
    assert error.value.key == ("text_column",)


def test_a_column_of_numbers_is_an_error(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="is int64, not text"):
        read(config("parquet", tmp_path))


def test_filters_and_limits_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(["x", "fine one", " ", "", "far too long a text"]))
    corpus = config("jsonl", tmp_path, min_bytes=2, max_bytes=10)
    texts, tally = read(corpus)
    assert texts == ["fine one"]
    assert tally.dropped == {"too_short": 1, "too_long": 1, "empty": 2}
    limited = Tally()
    found = documents(corpus, Task(0, tuple(pieces(corpus, scan(corpus))), limit=2), limited)
    assert [placed.document.text for placed in found] == ["fine one"]
    assert limited.read == 2


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet"])
def test_long_documents_are_split_and_counted(kind: str, tmp_path: Path) -> None:
    text = "".join(f"line {number} ü\n" for number in range(100))
    if kind == "parquet":
        write_parquet(tmp_path / "a.parquet", [text, "short"])
    else:
        data = text.encode() if kind == "text" else lines([text])
        (tmp_path / ("a.txt" if kind == "text" else "a.jsonl")).write_bytes(data)
    texts, tally = read(config(kind, tmp_path, split_bytes=256))
    assert "".join(texts).removesuffix("short") == text
    assert all(len(part.encode()) <= 256 for part in texts)
    assert tally.repaired == {"split": 1}


def test_text_trees_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.txt", ".git/x.txt", "skipped.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(config("text", tmp_path))[0] == ["a/b/c.txt", "a/z.txt", "b.txt"]


def test_file_names_of_any_bytes_are_read(tmp_path: Path) -> None:
    with open(bytes(tmp_path) + b"/\xff.txt", "wb") as file:  # noqa: PTH123
        file.write(b"text")
    assert read(config("text", tmp_path))[0] == ["text"]


def test_code_trees_leave_out_installed_packages(tmp_path: Path) -> None:
    for name in ("a.py", "site-packages/b.py", "pkg/c.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    fields = {"name": "c", "source": {"kind": "code", "root": str(tmp_path)}}
    assert read(CorpusConfig.model_validate(fields))[0] == ["a.py", "pkg/c.py"]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_a_hub_data_set_is_read_file_by_file(suffix: str, tmp_path: Path) -> None:
    """`load_dataset` takes a folder for a repository: the same code path, offline."""
    for number in range(2):
        path = tmp_path / f"train-{number:05d}.{suffix}"
        part = TEXTS[number * 25 : number * 25 + 25]
        if suffix == "parquet":
            write_parquet(path, list(part))
        else:
            data = lines(part)
            path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    source = {"kind": "hub", "repo": str(tmp_path), "revision": "0" * 40}
    corpus = CorpusConfig.model_validate({"name": "c", "source": source})
    assert len(pieces(corpus, scan(corpus))) == 2
    assert read(corpus)[0] == TEXTS
    with pytest.raises(DataError, match="did you mean 'text'"):
        read(corpus.model_copy(update={"text_column": "tex"}))


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = {"kind": "hub", "repo": "nobody/nothing", "revision": "0" * 40}
    corpus = CorpusConfig.model_validate({"name": "c", "source": source})
    with pytest.raises(DataError, match="cannot open nobody/nothing on the hub") as error:
        pieces(corpus, scan(corpus))
    assert error.value.key == ("source", "repo")
    assert "\n" not in str(error.value)


def test_zstandard_frames_end_where_they_say(tmp_path: Path) -> None:
    from data.compressed import open_file

    path = tmp_path / "a.zst"
    path.write_bytes(zstandard.compress(b"a" * 10**6) + zstandard.compress(b"b"))
    with open_file(str(path)) as file:
        assert file.read() == b"a" * 10**6 + b"b"
    path.write_bytes(b"")
    with open_file(str(path)) as file:
        assert file.read() == b""
    assert isinstance(file, io.BufferedReader)
