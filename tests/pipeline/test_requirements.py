"""What cannot fit a device or a disk is refused before anything starts, with what would do."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
from ruamel.yaml import YAML

from launch.conflicts import RULES, Layout, refuse_conflicts
from pipeline.config import Study
from pipeline.costing import Wanted, cost_of
from pipeline.errors import ConfigError, StudyError
from pipeline.planner import make_plan
from pipeline.requirements import (
    OVERHEAD,
    Setup,
    check_disk,
    check_memory,
    checkpoint_bytes,
    rank_bytes,
)
from pipeline.yaml_file import CONFIGS, read_yaml
from tests.pipeline.test_plan import TOKENS, study


@pytest.fixture(scope="module")
def run():
    return make_plan(study(budgets=[1e11], sizes=1), TOKENS).runs[0]


def test_a_run_that_fits_is_let_through_and_one_that_does_not_is_told_what_would(run):
    needed = rank_bytes(run.model, Setup.of(run))
    assert check_memory([run], needed + OVERHEAD) == needed
    sparing = Setup.of(run).change(sequences=1)
    room = rank_bytes(run.model, sparing)
    with pytest.raises(StudyError, match=r"a rank, .* are free; it fits with train.micro_batch=1"):
        check_memory([run], room + OVERHEAD)


def followed(given: Study, told: str) -> Study:
    """The study with the settings that a refusal proposes."""
    values = given.model_dump(mode="json")
    _, _, advice = told.splitlines()[1].partition("it fits with ")
    if step := re.search(r"\{.*\}", advice):
        values["parallel"]["larger"].append(YAML(typ="safe").load(step[0]))
    for key, value in re.findall(r"train\.(\w+)=(\S+)", advice):
        values["train"][key] = json.loads(value)
    return Study.model_validate(values)


@pytest.mark.parametrize(
    ("recipe", "parallel", "train", "share"),
    [
        ("llama", {}, {}, 0.7),
        ("llama", {"larger": [{"params": 10, "ranks": 2}]}, {}, 0.6),
        ("mixtral", {}, {}, 0.5),
        ("mixtral", {"zero_stage": 0}, {"optimizer": "muon"}, 0.85),
        ("llama", {"gpus_per_rank": 0.25}, {"dtype": "bf16"}, 0.7),
    ],
)
def test_where_a_small_batch_does_not_do_a_layout_is_proposed_that_is_let_through(
    recipe, parallel, train, share
):
    values = study(budgets=[1e11], sizes=1, min_steps=1).model_dump(mode="json")
    values["architectures"] = {
        "one": {"recipe": read_yaml(CONFIGS / "models" / f"{recipe}.yaml").values}
    }
    given = Study.model_validate(values | {"parallel": parallel, "train": train})
    [run] = make_plan(given, TOKENS).runs
    own = Setup.of(run).change(sequences=1, checkpointing=True)
    device = (share * rank_bytes(run.model, own) + OVERHEAD) / own.devices
    with pytest.raises(StudyError, match=r"it fits with .*ranks: \d+.* as a step of") as refused:
        check_memory([run], device)
    check_memory(make_plan(followed(given, str(refused.value)), TOKENS).runs, device)


def test_where_nothing_fits_that_is_said(run):
    with pytest.raises(StudyError, match="no setting of batch, ZeRO stage"):
        check_memory([run], OVERHEAD + 1)


def test_what_is_proposed_does_fit(run):
    own = Setup.of(run)
    for ranks, stage in ((2, 1), (4, 2), (8, 3)):
        assert rank_bytes(run.model, own.change(ranks=ranks, zero_stage=stage)) < rank_bytes(
            run.model, own
        )


def test_ranks_that_share_sequences_hold_less_each(run):
    own = Setup.of(run).change(ranks=2)
    whole, half = (rank_bytes(run.model, own.change(sequence_parallel=n)) for n in (1, 2))
    assert 0.4 * whole < half < whole


def test_a_disk_without_room_for_the_checkpoints_is_refused(run, tmp_path, monkeypatch):
    needed = checkpoint_bytes([run] * 10)
    assert needed == 11 * 12 * run.cost.params.total
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(StudyError, match=r"output: .* free and the checkpoints of these runs need"):
        check_disk(tmp_path / "not" / "yet", needed)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    check_disk(tmp_path, needed)


@pytest.mark.parametrize(
    "layout",
    [
        {"expert_parallel": 3, "ranks": 4, "experts": (6,)},
        {"expert_parallel": 2, "ranks": 2},
        {"expert_parallel": 4, "ranks": 4, "experts": (6,)},
        {"zero_stage": 0, "offload": True},
        {"zero_stage": 3, "ranks": 2, "compile": True},
        {"zero_stage": 3, "expert_parallel": 2, "ranks": 2, "experts": (4,)},
        {"optimizer": "muon", "ranks": 2},
        {"optimizer": "adafactor", "ranks": 2, "expert_parallel": 2, "zero_stage": 0, "experts": (4,)},
        {"gpus_per_rank": 2.0},
        {"gpus_per_rank": 0.5, "ranks": 2},
        {"pipeline_parallel": 2, "ranks": 2},
        {"sequence_parallel": 2, "ranks": 3},
        {"sequence_parallel": 2, "ranks": 2, "sequence_length": 5},
        {"sequence_parallel": 2, "ranks": 2, "zero_stage": 2, "is_relayed": True},
    ],
)  # fmt: skip
def test_every_conflict_says_what_was_given_and_what_is_allowed(layout):
    sound = {"ranks": 1, "zero_stage": 1, "expert_parallel": 1, "gpus_per_rank": 0.0}
    sound |= {"optimizer": "adamw", "experts": ()}
    refuse_conflicts(Layout(**sound))
    with pytest.raises(ValueError, match=r"^parallel\.\w+ is .*allowed"):
        refuse_conflicts(Layout(**{**sound, **layout}))


def test_conflicts_are_refused_when_a_study_is_loaded():
    assert len(RULES) >= 9
    with pytest.raises(ValueError, match=r"parallel.gpus_per_rank is 0\.5 with parallel.ranks 2"):
        type(study()).model_validate(
            study().model_dump() | {"parallel": {"ranks": 2, "gpus_per_rank": 0.5}}
        )


def test_larger_runs_take_other_settings():
    larger = [{"params": 1e8, "ranks": 8, "zero_stage": 3}, {"params": 1e6, "ranks": 2}]
    made = type(study()).model_validate(study().model_dump() | {"parallel": {"larger": larger}})
    found = [made.parallel.at(size) for size in (1e5, 1e7, 1e9)]
    assert [settings.ranks for settings in found] == [1, 2, 8]
    assert [settings.zero_stage for settings in found] == [1, 1, 3]


def test_a_cost_is_that_of_a_slice_where_ranks_share_sequences():
    def told(**layout):
        return cost_of("llama", [], Wanted(width=64, depth=2), 1024, 256, **layout)

    whole, slices = (told(ranks=4, sequence_parallel=n) for n in (1, 4))
    assert whole["flops_per_token"] == slices["flops_per_token"]
    stages = (found["training_bytes_by_zero_stage"]["1"] for found in (whole, slices))
    before, after = (stage["activations"] for stage in stages)
    assert after == pytest.approx(before / 4, rel=0.02)
    with pytest.raises(ConfigError, match=r"given 4; allowed: a divisor of --ranks, which is 2"):
        told(ranks=2, sequence_parallel=4)
    with pytest.raises(ConfigError, match=r"n_heads: no multiple of the 8 ranks"):
        told(ranks=8, sequence_parallel=8)
