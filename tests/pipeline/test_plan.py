"""The grid asks for what the study says, with exact cost, and a planted law comes back through it."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.study import analyze
from models import ModelConfig, build, cost
from models.costs import count
from pipeline.config import Study
from pipeline.plan import Plan, Tokens, read_rows
from pipeline.planner import make_plan
from pipeline.runs import row, run_flops, run_folder, run_tokens
from pipeline.tables import short
from pipeline.yaml_file import CONFIGS, read_yaml

TOKENS = Tokens(
    Path("/t/tokenizer.json"),
    Path("/t/train"),
    Path("/t/heldout"),
    "f" * 64,
    unique=10**12,
    vocab_size=1024,
)
PLANTED = {"E": 1.7, "A": 60.0, "alpha": 0.37, "B": 300.0, "beta": 0.34}


def study(**grid) -> Study:
    return Study.model_validate(
        {
            "name": "tiny",
            "corpus": {"name": "here", "source": {"kind": "code", "root": "stdlib"}},
            "tokenizer": {"kind": "bpe", "vocab_size": 1024},
            "architectures": {"dense": {"recipe": {"pattern": "attention+mlp"}}},
            "grid": {"type": "isoflop", "budgets": [1e11, 1e12, 1e13], "sizes": 7} | grid,
            "rule": {"name": "constant", "learning_rate": 0.01, "batch_tokens": 512},
        }
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(study(), TOKENS)


def test_every_budget_is_spent_exactly_by_distinct_sizes_on_both_sides_of_the_optimum(plan):
    frame = pd.DataFrame([row(run) for run in plan.runs])
    for budget, runs in frame.groupby("budget"):
        assert len(runs) == runs["params"].nunique() == 7
        assert np.allclose(runs["flops"], budget, rtol=0.02)
        ratio = runs["tokens"] / runs["params"]
        assert ratio.min() < 20 < ratio.max()
        assert (
            2 < runs["params"].max() / math.sqrt(runs["params"].max() * runs["params"].min()) < 4.5
        )


def test_other_objectives_spend_the_same_budgets_on_the_texts_tokens():
    """What a row of text becomes costs what it costs; D counts the text for all of them alike."""
    names = ("llama", "bert", "electra", "t5", "transformer")
    given = study().model_dump(mode="json")
    given["architectures"] = {
        name: {"recipe": read_yaml(CONFIGS / "models" / f"{name}.yaml").values} for name in names
    }
    given["grid"] |= {"budgets": [1e13], "sizes": 3}
    given["train"] |= {"label_smoothing": 0.1, "schedule": "inverse_sqrt"}
    for run in make_plan(Study.model_validate(given), TOKENS).runs:
        model = ModelConfig.from_dict(run.model)
        task = model.recipe.task
        assert model.vocab_size == TOKENS.vocab_size + task.special
        assert run_flops(run) == pytest.approx(1e13, rel=0.02)
        assert run_tokens(run) == run.train.steps * run.data.batch_size * run.data.sequence_length
        source, target = task.lengths(run.data.sequence_length)
        with torch.device("meta"):
            whole = count(build(model), run.data.sequence_length)[1]
        assert run.cost.training_flops_per_token == 3 * whole.total
        assert (source > 0) == (model.recipe.encoder is not None)
        assert target <= run.data.sequence_length
        assert run.train.label_smoothing == 0.1


def test_cost_is_that_of_the_model_which_is_built(plan):
    for run in plan.runs[::5]:
        config = ModelConfig.from_dict(run.model)
        assert sum(p.numel() for p in build(config).parameters()) == run.cost.params.total
        exact = cost(config, run.data.sequence_length).training_flops_per_token
        assert run_flops(run) == run_tokens(run) * exact


def test_a_plan_is_a_pure_function_and_reads_back(plan, tmp_path):
    again = make_plan(study(), TOKENS)
    assert again == plan
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    rows = read_rows(tmp_path / "plan.json")
    assert rows == [row(run) for run in plan.runs]
    (tmp_path / "rows.json").unlink()
    assert read_rows(tmp_path / "plan.json") == rows
    folders = {run_folder(study(), run) for run in plan.runs}
    assert len(folders) == len(plan.runs)


def test_points_that_cannot_be_run_are_named_with_their_rule():
    limited = make_plan(
        study(min_steps=400, max_epochs=1.0), Tokens(**(vars(TOKENS) | {"unique": 10**7}))
    )
    assert {point.rule for point in limited.skipped} == {"min_steps", "max_epochs"}
    assert all(run.train.steps >= 400 for run in limited.runs)
    assert len(limited.runs) + len(limited.skipped) == 21


def test_seeds_multiply_the_grid():
    assert len(make_plan(study(seeds=[0, 1, 2]), TOKENS).runs) == 63


def test_a_planted_law_is_recovered_through_planner_table_and_fitter(plan):
    frame = pd.DataFrame([row(run) | {"status": "finished"} for run in plan.runs])
    p = PLANTED
    frame["loss"] = (
        p["E"] + p["A"] / frame["params"] ** p["alpha"] + p["B"] / frame["tokens"] ** p["beta"]
    )
    fit = analyze(frame, [1e11, 1e12, 1e13], resamples=100).architectures["dense"].approach3
    for name, planted in PLANTED.items():
        assert fit.parameters[name].value == pytest.approx(planted, rel=1e-4), name


@pytest.mark.parametrize(
    ("count", "text"), [(950, "950"), (61440, "61.4k"), (1.2e6, "1.2m"), (3e9, "3b")]
)
def test_short(count, text):
    assert short(count) == text
