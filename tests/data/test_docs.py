"""The blocks of docs/data.md run in order, and its YAML and ours are corpora."""

import re
from pathlib import Path

import pytest

from data.corpus import CorpusConfig, HubSource, scan
from data.errors import DataError
from data.prepare import MixtureConfig
from pipeline.config import load_study

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "data.md").read_text()
CORPORA = sorted((ROOT / "configs" / "corpora").glob("*.yaml"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def read(text: str) -> CorpusConfig:
    from ruamel.yaml import YAML

    return CorpusConfig.model_validate(YAML(typ="safe").load(text))


def test_the_python_blocks_run() -> None:
    exec(compile("\n".join(blocks("python")), "docs/data.md", "exec"), {"__name__": "docs"})


def test_the_yaml_blocks_are_corpora(tmp_path: Path) -> None:
    *single, mixture = blocks("yaml")
    corpora = [read(block) for block in single]
    assert [corpus.source.kind for corpus in corpora] == ["code", "text", "hub"]
    assert corpora[0] == read((ROOT / "configs" / "corpora" / "stdlib.yaml").read_text())
    quickstart = (ROOT / "configs" / "studies" / "quickstart.yaml").read_text()
    changed = re.sub(r"^corpus: .*\n", lambda _: mixture, quickstart, flags=re.MULTILINE)
    (tmp_path / "study.yaml").write_text(changed)
    corpus = load_study(tmp_path / "study.yaml").corpus
    assert isinstance(corpus, MixtureConfig)
    assert [(part.corpus.name, part.weight) for part in corpus.parts] == [
        ("stdlib", 0.7),
        ("c4", 0.3),
    ]


@pytest.mark.parametrize("path", CORPORA, ids=lambda path: path.stem)
def test_every_example_is_a_corpus_of_its_own_name(path: Path) -> None:
    corpus = read(path.read_text())
    assert corpus.name == path.stem
    assert isinstance(corpus.source, HubSource) or scan(corpus).size > 1e6


def test_every_kind_of_source_is_in_the_table() -> None:
    kinds = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)[1:]  # below the table's head
    assert kinds == ["code", "text", "jsonl", "parquet", "hub"]
    for kind in kinds:
        where = {"hub": {"repo": "a", "revision": "0" * 40}, "code": {"root": "/none"}}
        source = {"kind": kind, **where.get(kind, {"path": "/none"})}
        corpus = CorpusConfig.model_validate({"name": "c", "source": source})
        if kind != "hub":
            with pytest.raises(DataError, match="there is no corpus at /none"):
                scan(corpus)
