"""Bad input: every fault is found before anything starts, with file, line, key, given and allowed."""

import time
from pathlib import Path

import pytest

from pipeline.config import load_study
from pipeline.errors import ConfigError
from pipeline.planner import make_plan
from pipeline.resolve import merge
from tests.pipeline.test_grids import TOKENS

ROOT = Path(__file__).resolve().parents[2]
STUDY = """\
name: tiny
corpus: {name: here, source: {kind: code, root: stdlib}}
tokenizer: {kind: bpe, vocab_size: 512}
architectures:
  dense: {recipe: llama}
grid:
  type: isoflop
  budgets: [1e9, 1e10]
rule: {name: constant, learning_rate: 0.01, batch_tokens: 512}
fit: {baseline: dense}
"""


@pytest.fixture
def study(tmp_path):
    def write(old: str = "", new: str = "") -> Path:
        assert old in STUDY
        path = tmp_path / "study.yaml"
        path.write_text(STUDY.replace(old, new, 1) if old else STUDY)
        return path

    return write


def refusal(path: Path, *overrides: str, check: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        load_study(path, list(overrides), check)
    return str(caught.value)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/studies").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_study_of_the_repository_loads(path):
    assert load_study(path, check=True).architectures


def test_a_study_loads_with_its_corpus_and_recipes_resolved(study):
    loaded = load_study(study())
    assert loaded.corpus.name == "here"
    assert loaded.architectures["dense"].recipe["pattern"] == "attention+mlp"
    assert loaded.fingerprint() == load_study(study()).fingerprint()
    assert loaded.fingerprint() != load_study(study(), ["grid.sizes=7"]).fingerprint()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("budgets:", "bugdets:", "study.yaml:8:3: grid.bugdets: unknown key; known here: .*did you mean 'budgets'"),
        ("budgets: [1e9, 1e10]", "sizes: 5", "study.yaml:6:1: grid.budgets: missing"),
        ("[1e9, 1e10]", "[]", "study.yaml:8:3: grid.budgets: given .*at least 1 item"),
        ("[1e9, 1e10]", "[1e9, -5]", r"study.yaml:8:18: grid.budgets.1: given -5, .*greater than 0"),
        ("[1e9, 1e10]", "[1e9, 1e9]", "grid: budgets: given .*each must differ"),
        ("[1e9, 1e10]", "[1e9, .inf]", "grid.budgets.1: given inf, .*finite"),
        ("[1e9, 1e10]", "[1e9, .nan]", "grid.budgets.1: given nan"),
        ("[1e9, 1e10]", "[1e9, 3 TFLOP]", "grid.budgets.1: given '3 TFLOP', .*valid number"),
        ("[1e9, 1e10]", "[1e9, true]", "grid.budgets.1: given True, .*valid number"),
        ("[1e9, 1e10]", "null", "grid.budgets: given null, .*valid list"),
        ("type: isoflop", "type: isoflow", "grid.type: given 'isoflow', allowed: 'isoflop', .*; did you mean 'isoflop'"),
        ("name: constant", "name: constent", "study.yaml:9:8: rule.name: given 'constent', allowed: 'probe', .*; did you mean 'constant'"),
        ("learning_rate: 0.01", "learning_rat: 0.01", "rule.learning_rat: unknown key.*did you mean 'learning_rate'"),
        ("name: tiny", "name: ../../etc", "study.yaml:1:1: name: given '../../etc', allowed: 1 to 64 of a-z"),
        ("name: tiny\n", "", "name: missing; this key is required"),
        ("kind: code", "kind: coda", "corpus.source.kind: given 'coda', allowed: .*did you mean 'code'"),
        ("root: stdlib", "rooot: stdlib", "corpus.source.rooot: unknown key.*did you mean 'root'"),
        ("vocab_size: 512", "vocab_size: 5.5", "tokenizer.vocab_size: given 5.5, .*valid integer"),
        ("vocab_size: 512", "vocab_size: 512, path: x.json", "tokenizer: .*takes no 'path'"),
        ("{recipe: llama}", "{recipe: lama}", "study.yaml:5:11: architectures.dense.recipe: no recipe 'lama'.*did you mean 'llama'"),
        ("{recipe: llama}", "{recipe: llama, overide: {}}", "architectures.dense.overide: unknown key"),
        ("baseline: dense", "baseline: dens", "fit.baseline: given 'dens', allowed: dense"),
        ("corpus: {", "corpus: nowhere.yaml #", "study.yaml:2:1: corpus: no corpus 'nowhere.yaml'"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(study, old, new, told):
    import re

    message = refusal(study(old, new))
    assert re.search(told, message), message


@pytest.mark.parametrize("kind", ["adaptive", "ladder", "probe", "repeats"])
def test_names_of_runs_are_as_long_as_is_foreseen(kind):
    loaded = load_study(kind)
    runs = make_plan(loaded, TOKENS).runs
    longest = max(len(run.name) - len(f"{run.labels['architecture']}-") for run in runs)
    assert longest <= max(map(len, loaded.grid.names)) <= longest + 1  # a budget may be proposed


def test_a_name_that_would_be_too_long_for_a_run_is_refused_where_it_stands(study):
    fits = 64 - len("-1e10-12.3k-s0")
    assert load_study(study("  dense:", f"  {'d' * fits}:"), ["fit.baseline=null", "name=a"])
    message = refusal(study("  dense:", f"  {'d' * (fits + 1)}:"), "fit.baseline=null")
    assert (
        f"study.yaml:5:3: architectures.{'d' * (fits + 1)}: given a name of {fits + 1} char"
        in message
    )
    assert f"allowed: at most {fits}, since a run such as NAME-" in message


def test_so_is_one_of_a_study_that_is_too_long_to_allocate_from(study):
    fits = 64 - len("-dense-1.23e10")
    assert load_study(study("name: tiny", f"name: {'n' * fits}"))
    message = refusal(study("name: tiny", f"name: {'n' * (fits + 1)}"))
    assert (
        f"study.yaml:1:1: name: given a name of {fits + 1} characters, allowed: at most {fits}"
        in message
    )
    one = "grid={type: ladder, params: [1e5], tokens_per_parameter: [20], trunk: false}"
    assert load_study(study("name: tiny", f"name: {'n' * 64}"), [one])


def test_a_home_folder_is_found(study, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = load_study(study(), ["output=~/studies"])
    assert loaded.folder == tmp_path / "studies" / "tiny"
    assert loaded.cache == tmp_path / "studies" / "cache"


def test_every_fault_is_reported_at_once(study):
    message = refusal(study("budgets:", "bugdets:"), "train.dtype=fp8", "fit.resamples=1")
    assert {"grid.bugdets", "grid.budgets", "train.dtype", "fit.resamples"} <= {
        line.split(": ")[1] for line in message.splitlines()
    }
    assert (
        "override 'train.dtype=fp8': train.dtype: given 'fp8', allowed: 'fp32' or 'bf16'" in message
    )


def test_a_fault_in_a_recipe_points_into_the_file_that_holds_it(study, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "pattern: attention+mlp\nbranches:\n  mlp: {activatoin: gelu}\n"
    )
    message = refusal(study("recipe: llama", "recipe: mine.yaml"), check=True)
    assert "mine.yaml:3:9: architectures.dense.recipe.branches.mlp.activatoin: " in message
    assert "activation" in message
    override = study(
        "{recipe: llama}", "{recipe: llama, override: {branches: {attention: {n_hads: 3}}}}"
    )
    message = refusal(override, check=True)
    assert "study.yaml:5:" in message
    assert "n_hads" in message


def test_what_a_study_names_is_looked_at_before_anything_starts(study, tmp_path):
    message = refusal(study("root: stdlib", "root: /nowhere"), check=True)
    assert "study.yaml:2:43: corpus.source.root: there is no corpus at /nowhere" in message
    missing = study("{kind: bpe, vocab_size: 512}", "{kind: file, path: none.json}")
    assert "tokenizer.path: cannot read the tokenizer none.json" in refusal(missing, check=True)
    heads = study(
        "{recipe: llama}", "{recipe: llama, override: {branches: {attention: {n_heads: 5}}}}"
    )
    message = refusal(heads, check=True)
    assert "study.yaml:5:60: architectures.dense.recipe.branches.attention.n_heads: " in message
    assert "5" in message


def test_a_tokenizer_of_another_vocabulary_is_refused(study, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "<|endoftext|>": 1}, []))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(tmp_path / "t.json"))
    path = study(
        "{kind: bpe, vocab_size: 512}",
        "{kind: file, path: %s, vocab_size: 512}" % (tmp_path / "t.json"),
    )
    assert "tokenizer.vocab_size: " in (message := refusal(path, check=True))
    assert "has a vocabulary of 2, not 512" in message


def test_refusing_takes_under_a_second(study):
    path = study("budgets:", "bugdets:")
    begin = time.perf_counter()
    refusal(path)
    assert time.perf_counter() - begin < 1


def test_merge_replaces_values_and_merges_mappings():
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}) == {
        "a": {"b": 3, "c": 2},
        "d": [2],
    }
