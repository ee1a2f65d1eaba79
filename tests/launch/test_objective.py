"""Every objective, from the recipe to a run that learns."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from data.loader import Loader
from data.store import TokenStore
from launch.config import RunConfig
from launch.export import load_model
from launch.journal import read_run
from launch.objective import transform
from launch.ranks import Ranks
from launch.train import train
from models import ModelConfig, Recipe

VOCAB = 32
CONFIGS = Path(__file__).parents[2] / "configs" / "models"
DECODER = {"pattern": "attention+mlp", "objective": "span_corruption"}
FALLS = {"bert": 0.1, "electra": 0.1, "transformer": 0.1, "t5": 0.3, "bart": 0.3, "decoder": 0.3}
"""What 40 steps take from the first loss, in nats; a masked model has a seventh of the targets."""
Make = Callable[..., RunConfig]


def recipe_of(name: str) -> Recipe:
    given = DECODER if name == "decoder" else YAML(typ="safe").load(CONFIGS / f"{name}.yaml")
    return Recipe.from_dict(given)


def model_of(name: str) -> dict[str, Any]:
    recipe = recipe_of(name)
    vocab_size = VOCAB + recipe.task.special
    return recipe.at(width=16, n_layers=2, vocab_size=vocab_size).to_dict()


@pytest.mark.parametrize(("name", "fall"), FALLS.items())
def test_a_run_of_every_objective_learns(
    run_config: Make, ranks: Ranks, tmp_path: Path, name: str, fall: float
) -> None:
    config = run_config(model=model_of(name), train__steps=40, train__label_smoothing=0.01)
    assert train(config, tmp_path, ranks).status == "finished"
    run = read_run(tmp_path)
    classes = 2 if name == "electra" else VOCAB + recipe_of(name).task.special
    assert run.points[0].loss == pytest.approx(math.log(classes), abs=0.2)
    assert run.evals[-1].loss < run.points[0].loss - fall
    assert run.evals[-1].bits_per_byte is None
    assert run.points[-1].tokens == 40 * 8 * 16  # of text, whatever of it is a target
    assert ("generator" in run.points[-1].aux) == (name == "electra")


@pytest.mark.parametrize("name", ["electra", "t5"])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    run_config: Make, ranks: Ranks, tmp_path: Path, name: str
) -> None:
    config = run_config(model=model_of(name), train__checkpoint_every=6)
    train(config, tmp_path / "whole", ranks)
    asked = iter([None] * 7 + ["preempted"])
    train(config, tmp_path / "parts", ranks, stop=lambda: next(asked))
    train(config, tmp_path / "parts", ranks)
    whole, parts = read_run(tmp_path / "whole"), read_run(tmp_path / "parts")
    assert parts.attempts[-1].resumed_from == 7
    assert [p.loss for p in parts.points] == [p.loss for p in whole.points]
    assert [e.loss for e in parts.evals] == [e.loss for e in whole.evals]
    config.write(tmp_path / "parts" / "config.json")
    load_model(tmp_path / "parts")


def test_recomputed_activations_change_nothing(
    run_config: Make, ranks: Ranks, tmp_path: Path
) -> None:
    model = model_of("t5")
    train(run_config(model=model), tmp_path / "kept", ranks)
    again = run_config(model=model, train__activation_checkpointing=True)
    train(again, tmp_path / "again", ranks)
    kept, again = read_run(tmp_path / "kept"), read_run(tmp_path / "again")
    assert [p.loss for p in kept.points] == [p.loss for p in again.points]


@pytest.mark.parametrize("name", FALLS)
def test_batches_are_as_long_as_the_cost_says(
    stores: dict[str, TokenStore], run_config: Make, name: str
) -> None:
    config = run_config(model=model_of(name))
    model = ModelConfig.from_dict(config.model)
    store = stores["train"]
    for length in (5, 16, 61):
        batch = Loader(store, length, 4, 0, transform(model, store, 0)).batch(0)
        source, target = model.recipe.task.lengths(length)
        if batch.sources_BS is None:
            assert batch.tokens_BT.shape[1] == source + target
        else:
            assert (batch.sources_BS.shape[1], batch.tokens_BT.shape[1]) == (source, target)
            assert batch.sources_BS.max() < model.vocab_size


def test_special_tokens_are_none_of_the_texts(stores: dict[str, TokenStore]) -> None:
    recipe = recipe_of("bert")
    tight = recipe.at(width=16, n_layers=2, vocab_size=VOCAB)
    with pytest.raises(ValueError, match=r"allowed: at least 33.*the objective masked adds"):
        transform(tight, stores["train"], 0)
    roomy = recipe.at(width=16, n_layers=2, vocab_size=VOCAB + 1)
    batch = Loader(stores["train"], 16, 8, 0, transform(roomy, stores["train"], 0)).batch(0)
    assert (batch.tokens_BT == VOCAB).any()
    assert (batch.targets_BT < VOCAB).all()


def test_evaluations_are_the_same_for_every_seed_of_the_data(
    stores: dict[str, TokenStore], run_config: Make
) -> None:
    model = ModelConfig.from_dict(model_of("t5"))
    heldout = Loader.heldout(
        stores["heldout"], 16, 8, objective=transform(model, stores["heldout"], 0)
    )
    batches = list(heldout.batches())
    parts = [list(heldout.batches(rank, 2)) for rank in range(2)]
    for i, batch in enumerate(batches):
        halves = [parts[rank][i].sources_BS for rank in range(2)]
        assert np.array_equal(np.concatenate(halves), batch.sources_BS)
    rows = sum(float(batch.weights_BT[:, 0].sum()) for batch in batches)
    assert rows == 1000 // 16


def test_an_objective_that_cuts_rows_keeps_no_documents_apart(run_config: Make) -> None:
    with pytest.raises(ValidationError, match=r"separate_documents is .rue.* with the objective"):
        run_config(model=model_of("t5"), data__separate_documents=True)
    run_config(model=model_of("bert"), data__separate_documents=True)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("name", "stage"), [("t5", 3), pytest.param("bert", 2, marks=pytest.mark.slow)]
)
def test_two_ranks_are_one(
    run_config: Make, ranks: Ranks, gangs: Any, tmp_path: Path, name: str, stage: int
) -> None:
    """Hidden tokens and spans are a function of the sample: every layout sees the same ones."""
    model = model_of(name)
    train(run_config(model=model), tmp_path / "one", ranks)
    spread = run_config(model=model, parallel__ranks=2, parallel__zero_stage=stage)
    two = gangs.run(spread, tmp_path / "two")
    one = read_run(tmp_path / "one")
    for a, b in zip(one.points, two.points, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=2e-5)
    assert one.evals[-1].loss == pytest.approx(two.evals[-1].loss, abs=2e-5)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_generator_learns_over_two_ranks(run_config: Make, gangs: Any, tmp_path: Path) -> None:
    spread = {"parallel__ranks": 2, "parallel__zero_stage": 2}
    config = run_config(model=model_of("electra"), train__steps=40, **spread)
    run = gangs.run(config, tmp_path)
    assert run.evals[-1].loss < run.points[0].loss - 0.1
