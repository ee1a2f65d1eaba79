from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.corpus import CorpusConfig, scan
from data.duplicates import Marks, find_drops, near_copies
from data.errors import DataError
from data.prepare import Prepared, prepare
from data.shingles import ngrams, signature
from data.store import TokenStore
from data.tokenizer import Tokenizer, TokenizerConfig

MakeCorpus = Callable[..., CorpusConfig]
Story = Callable[[int, int], str]


def texts(prepared: Prepared, side: str) -> list[str]:
    store = TokenStore.open(getattr(prepared, side))
    tokens = store.window(0, store.n_tokens).tolist()
    return Tokenizer.load(prepared.tokenizer).decode(tokens).split("<|endoftext|>")[:-1]


def write(root: Path, documents: list[str]) -> None:
    root.mkdir()
    for number, text in enumerate(documents):
        (root / f"{number:04d}.txt").write_text(text)


def marks(digests: list[int], heldout: list[bool], signatures: np.ndarray | None = None) -> Marks:
    count = len(digests)
    return Marks(
        np.array([[digest, 0] for digest in digests], np.uint64).reshape(-1, 2),
        np.array(heldout, bool),
        np.empty((count, 0), np.uint32) if signatures is None else signatures,
        np.zeros(count, bool),
    )


def corpus(**changes: object) -> CorpusConfig:
    return CorpusConfig.model_validate({"name": "c", "source": {"kind": "code"}} | changes)


@given(st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=4))
def test_one_of_each_set_of_copies_stays_the_first(shards: list[list[int]]) -> None:
    drops = find_drops(
        corpus(duplicates="exact"), [marks(shard, [False] * len(shard)) for shard in shards]
    )
    seen: set[int] = set()
    for shard, reasons in zip(shards, drops, strict=True):
        for number, digest in enumerate(shard):
            assert (number in reasons["duplicate"]) == (digest in seen)
            seen.add(digest)


def test_estimated_similarity_is_near_the_true_one() -> None:
    words = np.random.default_rng(0).integers(0, 2**63, 4000, np.uint64)
    one, other = signature(words[:3000]), signature(words[1000:])
    assert np.mean(one == other) == pytest.approx(2000 / 4000, abs=0.15)


def test_ngrams_depend_on_order_and_count() -> None:
    words = np.arange(6, dtype=np.uint64)
    assert len(ngrams(words, 3)) == 4
    assert len(ngrams(words, 9)) == 1
    assert not set(ngrams(words, 3).tolist()) & set(ngrams(words[::-1].copy(), 3).tolist())


def test_of_near_copies_a_heldout_one_stays() -> None:
    base = np.random.default_rng(1).integers(0, 2**32, (3, 128), np.uint32)
    signatures = np.concatenate([base, base])
    signatures[3:, 0] += 1
    heldout = np.array([False, True, False, False, False, True])
    dropped, of_heldout = near_copies(signatures, heldout, 0.8)
    assert np.flatnonzero(dropped).tolist() == [2, 3, 4]
    assert np.flatnonzero(of_heldout).tolist() == [2, 4]


def test_copies_stay_unless_asked_otherwise_and_are_counted(
    tmp_path: Path, text_corpus: MakeCorpus, bpe: TokenizerConfig, story: Story
) -> None:
    originals = [story(number, 60) for number in range(30)]
    write(tmp_path / "corpus", originals + originals[:7])
    kept = prepare(text_corpus(tmp_path / "corpus"), bpe, tmp_path / "cache")
    assert kept.ledger.documents.total() == 37
    exact = text_corpus(tmp_path / "corpus", duplicates="exact")
    once = prepare(exact, bpe, tmp_path / "cache")
    assert once.ledger.dropped == {"duplicate": 7}
    assert sorted(texts(once, "train") + texts(once, "heldout")) == sorted(originals)


def test_near_copies_of_heldout_documents_leave_training(
    tmp_path: Path, text_corpus: MakeCorpus, bpe: TokenizerConfig, story: Story
) -> None:
    originals = [story(number, 300) for number in range(30)]
    edited = [text.replace(" ", "  ", 3) + " the end" for text in originals]
    write(tmp_path / "corpus", originals + edited)
    near = text_corpus(tmp_path / "corpus", duplicates="near", heldout=0.3)
    made = prepare(near, bpe, tmp_path / "cache")
    held = {number for text in texts(made, "heldout") for number in [text[:50].replace("  ", " ")]}
    trained = {text[:50].replace("  ", " ") for text in texts(made, "train")}
    assert not held & trained
    assert made.ledger.documents.total() == 30
    assert made.ledger.dropped.total() == 30
    assert made.ledger.dropped["near_heldout"] > 0


def test_documents_that_overlap_an_evaluation_set_leave_training(
    tmp_path: Path, text_corpus: MakeCorpus, bpe: TokenizerConfig, story: Story
) -> None:
    documents = [story(number, 100) for number in range(30)]
    question = "Which of these nine words would you call the rarest? A, b, c or d?"
    leaked = documents[3][:200] + "\n" + question.upper() + "\n" + documents[3][200:]
    write(tmp_path / "corpus", [*documents, leaked, documents[5] + " Which of these nine words"])
    write(tmp_path / "evaluation", [question, "short"])
    against = [{"source": {"kind": "text", "path": str(tmp_path / "evaluation")}}]
    config = text_corpus(tmp_path / "corpus", decontaminate=against, heldout=0.1)
    made = prepare(config, bpe, tmp_path / "cache")
    assert made.ledger.dropped == {"overlap": 1}
    assert leaked not in texts(made, "train")
    (tmp_path / "evaluation" / "more.txt").write_text("another question")
    assert prepare(config, bpe, tmp_path / "cache").train != made.train


def test_a_fault_of_an_evaluation_set_is_named_by_its_own_key(
    tmp_path: Path, text_corpus: MakeCorpus, bpe: TokenizerConfig, story: Story
) -> None:
    write(tmp_path / "corpus", [story(number, 100) for number in range(30)])
    (tmp_path / "exam.jsonl").write_text('{"question": "Which?"}\n')
    exam = {"source": {"kind": "jsonl", "path": str(tmp_path / "exam.jsonl")}}
    gone = {"source": {"kind": "jsonl", "path": str(tmp_path / "gone.jsonl")}}
    with pytest.raises(DataError, match="no corpus at") as error:
        scan(text_corpus(tmp_path / "corpus", decontaminate=[exam, gone]))
    assert error.value.key == ("decontaminate", 1, "source", "path")
    corpus = text_corpus(tmp_path / "corpus", decontaminate=[exam])
    with pytest.raises(DataError, match="has no column 'text'") as error:
        prepare(corpus, bpe, tmp_path / "cache")
    assert error.value.key == ("decontaminate", 0, "text_column")
