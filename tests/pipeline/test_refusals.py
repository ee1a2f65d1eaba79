"""Every kind of slip in a study is refused before anything starts: its key, and what is allowed."""

import pytest

from pipeline.config import load_study
from pipeline.errors import ConfigError, StudyError
from pipeline.lease import leading
from pipeline.machine import Machine

GPT2 = "architectures={dense: {recipe: gpt2}}"
DENSE, MOE = "architectures.dense.override", "architectures.moe.override"
SLIPS = {
    "unknown key": (["seed=3"], "seed: unknown key; known here: architectures"),
    "typo": (["train.sequence_lenght=64"], "did you mean 'sequence_length'"),
    "wrong type": (["train.micro_batch=[1]"], "train.micro_batch: given [1]"),
    "missing": (["rule={name: constant}"], "rule.learning_rate: missing"),
    "null": (["grid=null"], "grid: given null"),
    "unit suffix": (["grid.budgets=[3 TFLOP]"], "grid.budgets.0: given '3 TFLOP'"),
    "bool as int": (["train.sequence_length=true"], "train.sequence_length: given True"),
    "NaN": (["train.clip=.nan"], "train.clip: given nan"),
    "infinity": (["grid.budgets=[.inf]"], "grid.budgets.0: given inf"),
    "negative": (["train.weight_decay=-1"], "train.weight_decay: given -1"),
    "zero": (["train.micro_batch=0"], "train.micro_batch: given 0"),
    "overflow": (["grid.budgets=[1e400]"], "grid.budgets.0: given inf"),
    "a budget of no machine": (["grid.budgets=[1e40]"], "grid.budgets.0: given 1e+40"),
    "experts and ranks": (["parallel.ranks=3"], "allowed: a divisor of the model's n_experts"),
    "ranks and expert parallelism": (
        ["parallel.ranks=3", "parallel.expert_parallel=2"],
        "parallel.expert_parallel is 2; allowed: a divisor of parallel.ranks",
    ),
    "ZeRO and experts": (
        ["parallel={ranks: 2, zero_stage: 3, expert_parallel: 2}"],
        "parallel.zero_stage is 3 with parallel.expert_parallel 2; allowed",
    ),
    "heads and width": (
        [f"{DENSE}={{branches: {{attention: {{n_heads: 7}}}}}}"],
        "attention.n_heads: heads do not divide the width",
    ),
    "heads and muP's base width": (
        [f"{DENSE}={{init: {{scheme: mup, base_width: 50}}}}"],
        "dense.recipe.init.base_width: muP's rates follow a model of that width",
    ),
    "top_k over experts": (
        [f"{MOE}={{branches: {{moe: {{top_k: 9}}}}}}"],
        "moe.top_k: out of range: 9; allowed: 1 to the 8 experts",
    ),
    "sequence over positions": (
        [GPT2, "train.sequence_length=2048"],
        "positions.max_length: shorter than the sequence: 1024; allowed: at least the sequence",
    ),
    "warm-up over steps": (
        ["rule={name: constant, learning_rate: 0.1, batch_tokens: 64, warmup_fraction: 2}"],
        "rule.warmup_fraction: given 2",
    ),
    "empty grid": (["grid.budgets=[]"], "grid.budgets: given []"),
    "huge grid": (["grid.sizes=100000"], "grid.sizes: given 100000"),
    "duplicate run": (["grid.budgets=[1e10, 1e10]"], "each must differ"),
    "bad name": (["name=My Study"], "name: given 'My Study', allowed: 1 to 64 of a-z"),
    "path traversal": (["name=../../etc"], "name: given '../../etc', allowed: 1 to 64 of a-z"),
    "traversal by a part": (
        ["corpus={name: ../c, source: {kind: text, path: /tmp}}"],
        "corpus.name: given '../c'",
    ),
    "missing path": (
        ["corpus={name: c, source: {kind: text, path: /nowhere}}"],
        "corpus.source.path: there is no corpus at /nowhere",
    ),
    "bad URI": (["mlflow=htp://x"], "mlflow: given 'htp://x', allowed: http(s)://host:port"),
    "password in a URI": (["mlflow=http://me:pw@x"], "given a URI with a password"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_refused_with_its_key_and_what_is_allowed(slip):
    overrides, told = SLIPS[slip]
    with pytest.raises(ConfigError) as refused:
        load_study("quickstart", overrides, check=True)
    assert told in str(refused.value)


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match=r"study\.yaml:2:1: key given twice"):
        load_study(path)


def test_a_folder_that_cannot_be_written_is_refused():
    study = load_study("quickstart", ["output=/proc/isoflop"])
    with (
        pytest.raises(StudyError, match="output: /proc/isoflop/quickstart cannot be written"),
        leading(study.folder),
    ):
        pass


def test_more_devices_than_there_are_are_refused():
    study = load_study("quickstart", ["parallel.ranks=512", "parallel.expert_parallel=1"])
    with pytest.raises(StudyError, match=r"parallel\.ranks: given 512, allowed: at most the"):
        Machine(study, None)
    study = load_study("quickstart", ["parallel.ranks=2", "parallel.expert_parallel=1"])
    with pytest.raises(StudyError, match="allowed: at most the 1 slots of this machine"):
        Machine(study, 1)
