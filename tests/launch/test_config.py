"""What a RunConfig accepts, what it refuses, and what its fingerprint covers."""

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from launch.config import RunConfig

Make = Callable[..., RunConfig]


def test_json_round_trip_is_exact(run_config: Make):
    config = run_config(train__checkpoint_every=5, labels={"study": "s", "budget": 1e15})
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.fingerprint() == config.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"labels": {"budget": 1}},
        {"data__train": "/elsewhere"},
        {"train__log_every": 3},
        {"train__checkpoint_every": 3},
        {"parallel__threads": 2},
    ],
)
def test_fingerprint_ignores_what_cannot_change_the_result(run_config: Make, change: dict):
    assert run_config(**change).fingerprint() == run_config().fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": "moe"},
        {"data__fingerprint": "0"},
        {"data__seed": 1},
        {"train__steps": 13},
        {"train__optimizer__learning_rate": 2e-2},
        {"parallel__ranks": 2},
    ],
)
def test_fingerprint_covers_what_can(run_config: Make, change: dict):
    assert run_config(**change).fingerprint() != run_config().fingerprint()


def test_layout_changes_the_fingerprint_but_not_the_trajectory(run_config: Make):
    one, two = run_config(), run_config(parallel__ranks=2, parallel__zero_stage=2)
    assert one.fingerprint() != two.fingerprint()
    assert one.trajectory() == two.trajectory()


@pytest.mark.parametrize(
    ("recipe", "change", "named"),
    [
        ("dense", {"parallel__ranks": 3}, ["data.batch_size", "8", "3"]),
        ("dense", {"train__micro_batch_size": 3}, ["train.micro_batch_size", "3", "8"]),
        ("dense", {"train__schedule__warmup_steps": 13}, ["warmup_steps", "13", "12"]),
        ("dense", {"train__evaluations": 13}, ["train.evaluations", "13", "12"]),
        ("moe", {"parallel__expert_parallel": 2}, ["expert_parallel", "2", "ranks", "1"]),
        (
            "dense",
            {"parallel__ranks": 2, "parallel__expert_parallel": 2},
            ["expert_parallel", "no experts"],
        ),
        (
            "moe",
            {"parallel__ranks": 8, "parallel__expert_parallel": 8},
            ["expert_parallel", "8", "n_experts", "4"],
        ),
        (
            "dense",
            {"parallel__zero_stage": 3, "parallel__ranks": 2, "train__compile": True},
            ["zero_stage", "3", "train.compile", "0, 1, 2"],
        ),
        (
            "dense",
            {"parallel__zero_stage": 0, "parallel__offload": True},
            ["offload", "zero_stage 0", "stages 1, 2, 3"],
        ),
        (
            "moe",
            {"parallel__ranks": 2, "parallel__expert_parallel": 2, "parallel__zero_stage": 3},
            ["zero_stage", "3", "expert_parallel", "0, 1, 2"],
        ),
        ("dense", {"name": "../x"}, ["name"]),
        ("dense", {"train__steps": True}, ["train.steps"]),
        ("dense", {"train__steps": 0}, ["train.steps"]),
        ("dense", {"train__optimizer__learning_rate": float("nan")}, ["learning_rate"]),
        ("dense", {"train__batch": 3}, ["train.batch"]),
    ],
)
def test_refusals_name_the_key_and_what_is_allowed(
    run_config: Make, recipe: str, change: dict, named: list[str]
):
    with pytest.raises(ValidationError) as refusal:
        run_config(recipe, **change)
    for word in named:
        assert word in str(refusal.value)
