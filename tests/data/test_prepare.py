import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data.corpus import CorpusConfig
from data.errors import DataError
from data.loader import Loader
from data.mixture import Mixture
from data.prepare import MixtureConfig, Prepared, Progress, prepare
from data.store import TokenStore
from data.tokenizer import Tokenizer, TokenizerConfig

MakeCorpus = Callable[..., CorpusConfig]


def documents(prepared: Prepared, side: str) -> list[str]:
    store = TokenStore.open(getattr(prepared, side))
    tokenizer = Tokenizer.load(prepared.tokenizer)
    tokens = store.window(0, store.n_tokens).tolist()
    assert tokens[-1] == tokenizer.end_of_document
    *texts, rest = tokenizer.decode(tokens).split("<|endoftext|>")
    assert rest == ""
    return texts


def stages(corpus: CorpusConfig, tokenizer: TokenizerConfig, cache: Path) -> set[str]:
    seen: list[Progress] = []
    prepare(corpus, tokenizer, cache, progress=seen.append)
    return {progress.stage for progress in seen}


def test_every_document_is_on_one_side_whole(prepared: Prepared, text_folder: Path) -> None:
    train, heldout = documents(prepared, "train"), documents(prepared, "heldout")
    originals = [path.read_text() for path in sorted(text_folder.rglob("*.txt"))]
    assert sorted(train + heldout) == sorted(originals)
    assert len(train) > len(heldout) > 0


def test_the_ledger_adds_up(prepared: Prepared, text_folder: Path) -> None:
    ledger = prepared.ledger
    size = sum(path.stat().st_size for path in text_folder.rglob("*.txt"))
    assert ledger.documents.total() == ledger.read == 60
    assert ledger.bytes.total() == size
    for side in ("train", "heldout"):
        store = TokenStore.open(getattr(prepared, side))
        assert store.n_tokens == ledger.tokens[side]
        assert store.n_documents == ledger.documents[side]
        assert store.bytes == ledger.bytes[side]
    assert prepared.train_tokens == ledger.tokens["train"]
    assert prepared.bytes_per_token == ledger.bytes["train"] / ledger.tokens["train"]


def test_copies_of_a_heldout_document_are_not_trained_on(
    text_folder: Path, text_corpus: MakeCorpus, bpe: TokenizerConfig, tmp_path: Path
) -> None:
    shutil.copytree(text_folder, tmp_path / "corpus")
    shutil.copytree(text_folder, tmp_path / "corpus" / "again")
    made = prepare(text_corpus(tmp_path / "corpus"), bpe, tmp_path / "cache")
    assert not set(documents(made, "train")) & set(documents(made, "heldout"))
    assert made.ledger.read == 120


def test_a_second_call_does_nothing_and_is_quick(
    text_folder: Path, text_corpus: MakeCorpus, bpe: TokenizerConfig, tmp_path: Path
) -> None:
    corpus = text_corpus(text_folder)
    assert stages(corpus, bpe, tmp_path) == {"train tokenizer", "tokenize"}
    started = time.perf_counter()
    assert stages(corpus, bpe, tmp_path) == set()
    assert time.perf_counter() - started < 0.5


def test_what_the_tokens_depend_on_makes_new_ones(
    text_folder: Path,
    text_corpus: MakeCorpus,
    bpe: TokenizerConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "corpus"
    shutil.copytree(text_folder, root)
    cache = tmp_path / "cache"
    first = prepare(text_corpus(root), bpe, cache)
    wider = prepare(text_corpus(root), TokenizerConfig(vocab_size=310), cache)
    reseeded = prepare(text_corpus(root, seed=1), bpe, cache)
    path = root / "part0" / "00.txt"
    path.write_text(path.read_text().swapcase())
    edited = prepare(text_corpus(root), bpe, cache)
    monkeypatch.setattr("data.source.code_digest", lambda: "other code")
    recoded = prepare(text_corpus(root), bpe, cache)
    assert len({made.train for made in (first, wider, reseeded, edited, recoded)}) == 5
    assert TokenStore.open(edited.train).fingerprint == TokenStore.open(recoded.train).fingerprint


def test_a_damaged_shard_is_made_again(
    text_folder: Path, text_corpus: MakeCorpus, bpe: TokenizerConfig, tmp_path: Path
) -> None:
    made = prepare(text_corpus(text_folder), bpe, tmp_path)
    path = made.train / "00000.bin"
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert stages(text_corpus(text_folder), bpe, tmp_path) == {"tokenize"}
    assert path.read_bytes() == whole


def test_a_damaged_tokenizer_is_trained_again(
    text_folder: Path, text_corpus: MakeCorpus, bpe: TokenizerConfig, tmp_path: Path
) -> None:
    made = prepare(text_corpus(text_folder), bpe, tmp_path)
    made.tokenizer.write_text(made.tokenizer.read_text()[:-100])
    assert stages(text_corpus(text_folder), bpe, tmp_path) == {"train tokenizer"}


def test_a_tokenizer_file_serves_another_corpus(
    prepared: Prepared, text_folder: Path, text_corpus: MakeCorpus, tmp_path: Path
) -> None:
    config = TokenizerConfig(kind="file", path=str(prepared.tokenizer), vocab_size=300)
    made = prepare(text_corpus(text_folder), config, tmp_path)
    assert made.tokenizer_fingerprint == prepared.tokenizer_fingerprint
    assert TokenStore.open(made.train).fingerprint == TokenStore.open(prepared.train).fingerprint


@pytest.mark.parametrize(
    ("files", "changes", "message", "key"),
    [
        (None, {}, "there is no corpus at", ("source", "path")),
        ({}, {}, r"holds no documents: 0 files end in \.txt, \.md, \.rst", ("source", "path")),
        ({"a.txt": ""}, {}, r"1 files end in \.txt, \.md, \.rst, all empty", ("source", "path")),
        ({"a.txt": " \n"}, {}, "has no training documents", ("heldout",)),
        ({"a.txt": "x" * 400}, {"heldout": 1 - 1e-9}, "has no training documents", ("heldout",)),
        ({"a.txt": "x"}, {"min_bytes": 5}, "has no training documents", ("heldout",)),
    ],
)
def test_corpora_without_documents_are_refused(
    files: dict[str, str] | None,
    changes: dict[str, object],
    message: str,
    key: tuple[str, ...],
    text_corpus: MakeCorpus,
    bpe: TokenizerConfig,
    tmp_path: Path,
) -> None:
    root = tmp_path / "corpus"
    if files is not None:
        root.mkdir()
        for name, text in files.items():
            (root / name).write_text(text)
    with pytest.raises(DataError, match=message) as error:
        prepare(text_corpus(root, **changes), bpe, tmp_path / "cache")
    assert error.value.key == key


def test_a_split_without_heldout_documents_is_refused(
    prepared: Prepared, text_corpus: MakeCorpus, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("one document")
    config = TokenizerConfig(kind="file", path=str(prepared.tokenizer))
    with pytest.raises(DataError, match="none of the 1 documents of small is on the heldout side"):
        prepare(text_corpus(tmp_path, heldout=1e-9), config, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_refused(
    text_folder: Path, text_corpus: MakeCorpus, bpe: TokenizerConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot create the folder"):
        prepare(text_corpus(text_folder), bpe, tmp_path / "file" / "cache")


def test_too_little_disk_is_refused_before_work(
    text_folder: Path,
    text_corpus: MakeCorpus,
    bpe: TokenizerConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs about .* bytes and its disk has 10 free"):
        prepare(text_corpus(text_folder), bpe, tmp_path)


def test_a_mixture_shares_one_tokenizer_trained_on_all(
    text_folder: Path, text_corpus: MakeCorpus, bpe: TokenizerConfig, tmp_path: Path
) -> None:
    parts = [
        {"corpus": text_corpus(text_folder / f"part{n}", name=f"part{n}"), "weight": 1.0 + 2 * n}
        for n in range(2)
    ]
    config = MixtureConfig.model_validate({"parts": parts})
    made = prepare(config, bpe, tmp_path)
    mixture = Mixture.open(made.train)
    assert mixture.shares == [0.25, 0.75]
    assert made.train_tokens == sum(part.store.n_tokens for part in mixture.parts)
    assert mixture.unique_tokens <= made.train_tokens
    loader = Loader(mixture, sequence_length=16, batch_size=4, seed=0)
    tokens = {exposure.name: exposure.tokens for exposure in loader.exposures(100)}
    assert tokens == {"part0": 100 * 16, "part1": 300 * 16}
    assert prepare(config, bpe, tmp_path) == made
    heavier = config.model_copy(
        update={"parts": [config.parts[0], config.parts[1].model_copy(update={"weight": 9.0})]}
    )
    other = Mixture.open(prepare(heavier, bpe, tmp_path).train)
    assert other.fingerprint != mixture.fingerprint


def test_a_store_is_a_mixture_of_one(prepared: Prepared) -> None:
    mixture, store = Mixture.open(prepared.train), TokenStore.open(prepared.train)
    assert [part.store for part in mixture.parts] == [store]
    assert mixture.fingerprint == store.fingerprint
    assert mixture.unique_tokens == store.n_tokens
