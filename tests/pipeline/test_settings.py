"""What a study may choose reaches its runs, for each architecture its own, and old studies stay."""

import pytest
from pydantic import ValidationError

from pipeline.config import Study, load_study
from pipeline.errors import ConfigError
from pipeline.planner import make_plan
from pipeline.runs import row
from pipeline.settings import Optimization, OwnTraining, ParallelSettings, TrainSettings
from tests.pipeline.test_plan import TOKENS
from tests.pipeline.test_plan import study as plain

STUDY = """\
name: tiny
corpus: {name: here, source: {kind: code, root: stdlib}}
tokenizer: {kind: bpe, vocab_size: 512}
architectures:
  adamw: {recipe: llama}
  muon: {recipe: llama, train: {optimizer: muon}}
grid: {type: isoflop, budgets: [1e11], sizes: 1}
rule: {name: constant, learning_rate: 0.01, batch_tokens: 512}
"""
CHOSEN = {
    "optimizer": "muon",
    "momentum": 0.9,
    "spikes": "skip",
    "decay_fraction": 0.3,
    "compile": True,
    "keep_checkpoints": 3,
}


def study(**changes) -> Study:
    return Study.model_validate(plain(budgets=[1e11], sizes=1).model_dump(mode="json") | changes)


def plan_of(made: Study) -> list:
    return list(make_plan(made, TOKENS).runs)


def refusal(tmp_path, *overrides: str, old: str = "", new: str = "") -> str:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace(old, new, 1) if old else STUDY)
    with pytest.raises(ConfigError) as caught:
        load_study(path, list(overrides))
    return str(caught.value)


def test_all_that_a_run_can_do_a_study_can_choose():
    [run] = plan_of(study(train=CHOSEN | {"schedule": "wsd"}))
    train, optimizer = run.train, run.train.optimizer
    assert (optimizer.name, optimizer.momentum) == ("muon", 0.9)
    assert train.schedule.decay_fraction == 0.3
    assert (train.spikes, train.compile, train.keep_checkpoints) == ("skip", True, 3)
    assert row(run)["optimizer"] == "muon"
    [run] = plan_of(study(parallel={"offload": True, "step_timeout": 60.0}))
    assert (run.parallel.offload, run.parallel.step_timeout) == (True, 60.0)


def test_what_is_not_chosen_is_not_told_so_that_old_studies_keep_their_fingerprints():
    told = TrainSettings().model_dump(mode="json")
    assert not set(CHOSEN) & set(told)
    assert not {"offload", "step_timeout"} & set(ParallelSettings().model_dump(mode="json"))
    assert set(study().model_dump(mode="json")["architectures"]["dense"]) == {"recipe", "priority"}


def test_larger_runs_may_offload_alone():
    settings = ParallelSettings.model_validate({"larger": [{"params": 1e6, "offload": True}]})
    assert [settings.at(size).offload for size in (1e5, 1e6)] == [False, True]


def test_what_cannot_be_combined_is_refused_when_the_study_is_read(tmp_path):
    message = refusal(tmp_path, "parallel.ranks=2", "parallel.zero_stage=1")
    told = "override 'parallel.zero_stage=1': parallel.zero_stage: architectures.muon: "
    assert message.startswith(told)
    assert "optimizer muon; allowed: 0 without offloading" in message
    assert "train.compile" in refusal(
        tmp_path, "train.compile=true", "parallel.ranks=2", "parallel.zero_stage=3",
        "architectures.muon.train={}",
    )  # fmt: skip
    assert "stages 1, 2, 3" in refusal(
        tmp_path, "parallel.larger=[{params: 1e9, offload: true}]", "parallel.zero_stage=0"
    )


def test_a_recurrence_whose_ranks_would_meet_in_every_layer_is_refused_before_tokenizing(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("{recipe: llama, train: {optimizer: muon}}", "{recipe: mamba2}"))
    shared = ["parallel.ranks=2", "parallel.sequence_parallel=2"]
    assert load_study(path, [*shared, "parallel.zero_stage=1"], check=True)
    with pytest.raises(
        ConfigError, match=r"architectures\.muon\.recipe: .* and a recurrence; allowed: 0, 1"
    ):
        load_study(path, [*shared, "parallel.zero_stage=2"], check=True)


def test_an_architecture_has_its_own_training_and_rule(tmp_path):
    path = tmp_path / "study.yaml"
    own = "train: {optimizer: muon, weight_decay: 0.0, betas: [0.9, 0.99]}, rule: {name: step_law}"
    path.write_text(STUDY.replace("train: {optimizer: muon}", own))
    loaded = load_study(path, ["train.clip=0.5"])
    adamw, muon = plan_of(loaded)
    assert [run.train.optimizer.name for run in (adamw, muon)] == ["adamw", "muon"]
    assert [run.train.optimizer.weight_decay for run in (adamw, muon)] == [0.1, 0.0]
    assert [run.train.optimizer.betas[1] for run in (adamw, muon)] == [0.95, 0.99]
    assert [run.train.clip for run in (adamw, muon)] == [0.5, 0.5]
    assert adamw.train.optimizer.learning_rate == 0.01 != muon.train.optimizer.learning_rate
    again = Study.model_validate(loaded.model_dump(mode="json"))
    assert again == loaded
    assert [run.fingerprint() for run in plan_of(again)] == [
        run.fingerprint() for run in (adamw, muon)
    ]


def test_what_an_architecture_gives_counts_though_it_be_the_default():
    own = OwnTraining.model_validate({"optimizer": "adamw", "clip": 1.0})
    assert own.model_dump() == {"optimizer": "adamw", "clip": 1.0}
    assert TrainSettings(optimizer="muon", clip=2.0).of(own) == TrainSettings()


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ("train: {sequence_length: 64}", "study.yaml:6:33: architectures.muon.train.sequence_length: unknown key; known here: betas, clip"),
        ("train: {optimiser: muon}", "did you mean 'optimizer'?"),
        ("train: {optimizer: lion}", "architectures.muon.train.optimizer: given 'lion', allowed: 'adamw', 'muon' or 'adafactor'"),
        ("rule: {name: constent}", "architectures.muon.rule.name: given 'constent', allowed: 'probe', "),
        ("rule: {name: constant, learning_rate: 1}", "architectures.muon.rule.batch_tokens: missing; this key is required"),
    ],
)  # fmt: skip
def test_a_fault_of_its_own_settings_is_named_with_its_place(tmp_path, own, told):
    assert told in refusal(tmp_path, old="train: {optimizer: muon}", new=own)


def test_every_key_of_an_optimization_may_differ_and_no_other():
    assert set(OwnTraining.model_fields) == set(Optimization.model_fields)
    with pytest.raises(ValidationError):
        OwnTraining.model_validate({"dtype": "bf16"})
