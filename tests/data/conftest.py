import random
from collections.abc import Callable
from pathlib import Path

import pytest

from data.corpus import CorpusConfig
from data.prepare import Prepared, prepare
from data.tokenizer import TokenizerConfig

WORDS = [
    "the",
    "of",
    "to",
    "and",
    "in",
    "is",
    "for",
    "a",
    "loss",
    "token",
    "model",
    "compute",
    "data",
    "scale",
    "law",
    "fit",
    "run",
    "seed",
    "batch",
]
ENDS = ["", "", ",\n", "s"]
MakeCorpus = Callable[..., CorpusConfig]


@pytest.fixture(scope="session")
def story() -> Callable[[int, int], str]:
    def write(seed: int, n_words: int = 120) -> str:
        chooser = random.Random(seed)
        return " ".join(chooser.choice(WORDS) + chooser.choice(ENDS) for _ in range(n_words))

    return write


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory, story: Callable[[int, int], str]) -> Path:
    """Sixty short documents in two folders."""
    root = tmp_path_factory.mktemp("corpus")
    for number in range(60):
        path = root / f"part{number % 2}" / f"{number:02d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(story(number, 40 + number * 5))
    return root


@pytest.fixture(scope="session")
def text_corpus() -> MakeCorpus:
    def make(root: Path, **changes: object) -> CorpusConfig:
        source = {"kind": "text", "path": str(root)}
        return CorpusConfig.model_validate(
            {"name": "small", "source": source, "heldout": 0.2} | changes
        )

    return make


@pytest.fixture(scope="session")
def bpe() -> TokenizerConfig:
    return TokenizerConfig(kind="bpe", vocab_size=300)


@pytest.fixture(scope="session")
def prepared(
    text_folder: Path,
    text_corpus: MakeCorpus,
    bpe: TokenizerConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Prepared:
    return prepare(text_corpus(text_folder), bpe, tmp_path_factory.mktemp("cache"))
