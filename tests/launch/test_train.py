"""The loop in this process, on one rank."""

import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from data.batch import Batch
from data.mixture import Mixture, Part
from data.store import TokenStore
from launch import assemble
from launch import train as loop
from launch.config import RunConfig
from launch.journal import RunRecord, read_run
from launch.ranks import Ranks
from launch.reading import Fed
from launch.train import train
from models import Recipe
from tests.launch.conftest import VOCAB

Make = Callable[..., RunConfig]


def curve(run: RunRecord) -> list[tuple[int, float, float | None]]:
    return [(point.step, point.loss, point.grad_norm) for point in run.points]


def evaluations(run: RunRecord) -> list[tuple[int, float]]:
    return [(point.step, point.loss) for point in run.evals]


@pytest.mark.parametrize("recipe", ["dense", "moe", "hybrid"])
def test_a_run_learns_and_says_so(run_config: Make, ranks: Ranks, tmp_path: Path, recipe: str):
    config = run_config(recipe, train__steps=20)
    assert train(config, tmp_path, ranks).status == "finished"
    run = read_run(tmp_path)
    assert [point.step for point in run.points] == list(range(1, 21))
    assert [point.step for point in run.evals] == [10, 20]
    assert run.points[-1].tokens == 20 * 8 * 16
    assert run.points[-1].flops == 20 * 8 * 16 * 6e4
    assert run.points[0].loss == pytest.approx(math.log(32), abs=0.1)
    assert run.evals[-1].loss < run.points[0].loss - 0.3
    assert run.evals[-1].bits_per_byte == pytest.approx(run.evals[-1].loss / 2 / math.log(2))


def test_the_same_run_is_the_same_to_the_bit(run_config: Make, ranks: Ranks, tmp_path: Path):
    config = run_config("hybrid")
    for name in ("one", "two"):
        train(config, tmp_path / name, ranks)
    assert curve(read_run(tmp_path / "one")) == curve(read_run(tmp_path / "two"))


@pytest.mark.parametrize(("name", "rate"), [("muon", 1e-2), ("adafactor", 0.1)])
def test_other_optimizers_learn_and_resume_to_the_bit(
    run_config: Make, ranks: Ranks, tmp_path: Path, name: str, rate: float
):
    config = run_config(
        "hybrid",
        train__optimizer={"name": name, "learning_rate": rate},
        train__checkpoint_every=6,
        train__keep_checkpoints=2,
    )
    train(config, tmp_path, ranks)
    whole = read_run(tmp_path)
    assert whole.points[-1].loss < whole.points[0].loss - 0.3
    shutil.rmtree(tmp_path / "checkpoints" / "step-12")
    train(config, tmp_path, ranks)
    assert read_run(tmp_path).attempts[-1].resumed_from == 6
    assert curve(read_run(tmp_path)) == curve(whole)


def test_recomputed_activations_change_nothing(run_config: Make, ranks: Ranks, tmp_path: Path):
    train(run_config("hybrid"), tmp_path / "kept", ranks)
    train(run_config("hybrid", train__activation_checkpointing=True), tmp_path / "again", ranks)
    kept, again = read_run(tmp_path / "kept"), read_run(tmp_path / "again")
    assert curve(kept) == curve(again)


def compiled(make: Make, ranks: Ranks, folder: Path, recipe: str) -> None:
    """The run is the same with its branches compiled, activations recomputed or not."""
    train(make(recipe), folder / "plain", ranks)
    plain = curve(read_run(folder / "plain"))
    for again in (False, True):
        changes = {"train__compile": True, "train__activation_checkpointing": again}
        train(make(recipe, **changes), folder / str(again), ranks)
        for a, b in zip(plain, curve(read_run(folder / str(again))), strict=True):
            assert a == pytest.approx(b, abs=2e-6)


@pytest.mark.parametrize("recipe", ["dense", pytest.param("hybrid", marks=pytest.mark.slow)])
def test_traced_branches_compute_the_same(
    run_config: Make, ranks: Ranks, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
):
    """What torch.compile traces, run as it is: a compiler takes longer (see the slow test)."""
    monkeypatch.setattr(assemble.torch, "compile", partial(torch.compile, backend="eager"))
    compiled(run_config, ranks, tmp_path, recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["dense", "moe", "hybrid"])
def test_compiled_branches_compute_the_same(
    run_config: Make, ranks: Ranks, tmp_path: Path, recipe: str
):
    compiled(run_config, ranks, tmp_path, recipe)


def test_compiling_does_not_make_another_run(run_config: Make):
    assert run_config().fingerprint() == run_config(train__compile=True).fingerprint()


@pytest.mark.parametrize(
    "packing", [{"data__packing": "best-fit"}, {"data__separate_documents": True}]
)
def test_documents_kept_apart_are_learned_from(
    run_config: Make, ranks: Ranks, tmp_path: Path, packing: dict[str, object]
):
    config = run_config("hybrid", train__steps=20, **packing)
    assert config.fingerprint() != run_config("hybrid", train__steps=20).fingerprint()
    train(config, tmp_path, ranks)
    run = read_run(tmp_path)
    assert run.evals[-1].loss < run.points[0].loss - 0.3


def test_a_mixture_is_judged_part_by_part(
    run_config: Make, stores: dict[str, TokenStore], ranks: Ranks, tmp_path: Path
):
    """The loss is the mean of its parts' by their shares; a part weighs as it is drawn."""
    for side in ("train", "heldout"):
        parts = Part("a", stores[side], 3.0), Part("b", stores["train"], 1.0, max_epochs=2)
        Mixture(parts).save(tmp_path / side)
    sides = {f"data__{side}": str(tmp_path / side) for side in ("train", "heldout")}
    train(run_config(**sides), tmp_path / "run", ranks)
    for found in read_run(tmp_path / "run").evals:
        assert set(found.parts) == {"a", "b"}
        assert found.loss == pytest.approx(0.75 * found.parts["a"] + 0.25 * found.parts["b"])
    train(run_config(), tmp_path / "plain", ranks)
    assert all(not found.parts for found in read_run(tmp_path / "plain").evals)


@pytest.mark.parametrize("objective", ["causal", "multi_token"])
def test_accumulation_changes_nothing_but_rounding(
    run_config: Make, ranks: Ranks, tmp_path: Path, objective: str
):
    """Also where micro-batches have targets in different numbers."""
    recipe = Recipe.from_dict({"pattern": "attention+mlp", "objective": objective})
    model = recipe.at(width=16, n_layers=2, vocab_size=VOCAB).to_dict()
    given = {"model": model, "data__separate_documents": True}
    train(run_config(**given), tmp_path / "whole", ranks)
    train(run_config(**given, train__micro_batch_size=2), tmp_path / "parts", ranks)
    whole, parts = read_run(tmp_path / "whole"), read_run(tmp_path / "parts")
    for a, b in zip(curve(whole), curve(parts), strict=True):
        assert a == pytest.approx(b, abs=2e-6)


def test_a_balancing_bias_follows_the_load_of_all_micro_batches(
    run_config: Make, ranks: Ranks, tmp_path: Path
):
    moe = {"n_experts": 4, "selection_bias": True, "bias_rate": 0.1, "balance_weight": 0.0}
    recipe = Recipe.from_dict({"pattern": "attention+moe", "branches": {"moe": moe}})
    model = recipe.at(width=16, n_layers=2, vocab_size=VOCAB).to_dict()
    train(run_config(model=model), tmp_path / "whole", ranks)
    train(run_config(model=model, train__micro_batch_size=2), tmp_path / "parts", ranks)
    whole, parts = read_run(tmp_path / "whole"), read_run(tmp_path / "parts")
    for a, b in zip(whole.points, parts.points, strict=True):
        assert b.loss == pytest.approx(a.loss, abs=2e-6)
        assert b.aux["load/1"] == pytest.approx(a.aux["load/1"], abs=1e-6)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    run_config: Make, ranks: Ranks, tmp_path: Path, dtype: str
):
    config = run_config("hybrid", train__checkpoint_every=5, train__dtype=dtype)
    train(config, tmp_path / "whole", ranks)
    asked = iter([None] * 7 + ["preempted"])
    end = train(config, tmp_path / "parts", ranks, stop=lambda: next(asked))
    assert (end.status, end.step) == ("preempted", 7)
    train(config, tmp_path / "parts", ranks)
    whole, parts = read_run(tmp_path / "whole"), read_run(tmp_path / "parts")
    assert parts.attempts[-1].resumed_from == 7
    assert curve(parts) == curve(whole)
    assert evaluations(parts) == evaluations(whole)
    assert parts.end
    assert parts.end.train_seconds > end.train_seconds


def weights(run: loop.Run) -> dict[str, torch.Tensor]:
    return {f.name: f.tensors["weight"].clone() for f in run.engine.state.fragments()}


@pytest.mark.parametrize("harm", ["loss", "gradient"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_diverged_run_has_the_weights_of_its_last_good_step(
    run_config: Make,
    ranks: Ranks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: str,
    dtype: str,
):
    """Step 4 is poisoned. A loss may be finite where a gradient is not."""
    asked = iter([None] * 3 + ["cancelled"])
    good = loop.Run(run_config(train__dtype=dtype), tmp_path / "good", ranks, lambda step: None)
    good.to_the_end(lambda: next(asked))
    bad = loop.Run(run_config(train__dtype=dtype), tmp_path / "bad", ranks, lambda step: None)
    healthy, feed, steps = bad.engine.backward, loop.feed, iter(range(1, 13))

    def infinite(loss: torch.Tensor) -> None:
        healthy(loss)
        if next(steps) == 4:
            owner = bad.engine.state.owner(next(iter(bad.engine._shares)))
            owner.grad.view(-1)[0] = math.inf

    def poisoned(batch: Batch, rows: slice, device: torch.device) -> Fed:
        fed = feed(batch, rows, device)
        return (*fed[:2], fed[2] * math.nan, *fed[3:]) if next(steps) == 4 else fed

    if harm == "loss":
        monkeypatch.setattr(loop, "feed", poisoned)
    else:
        monkeypatch.setattr(bad.engine, "backward", infinite)
    end = bad.to_the_end(lambda: None)
    assert (end.status, end.step) == ("diverged", 3)
    assert f"{harm} of step 4" in end.reason
    assert [point.step for point in read_run(tmp_path / "bad").points] == [1, 2, 3]
    found, expected = weights(bad), weights(good)
    for run in (good, bad):
        run.close()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
