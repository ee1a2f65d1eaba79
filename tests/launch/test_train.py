"""The loop in this process, on one rank."""

import errno
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.mixture import Mixture, Part
from data.store import TokenStore
from launch import checkpoint
from launch import train as loop
from launch.checkpoint import CheckpointError
from launch.config import RunConfig
from launch.journal import RunRecord, read_run
from launch.pieces import BUFFER, RNG, Pieces
from launch.ranks import Ranks
from launch.train import train

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


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(
    run_config: Make, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = run_config(train__checkpoint_every=4, train__keep_checkpoints=3)
    whole = tmp_path / "whole"
    train(config, whole, ranks)
    healthy, folder = checkpoint.save_file, tmp_path / "run"

    def full(tensors, path):
        if "draft-8" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        healthy(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"draft-8.* bytes cannot be written: .*No space"):
        train(config, folder, ranks)
    monkeypatch.undo()
    train(config, folder, ranks)
    assert read_run(folder).attempts[-1].resumed_from == 4
    assert curve(read_run(folder)) == curve(read_run(whole))


def test_accumulation_changes_nothing_but_rounding(run_config: Make, ranks: Ranks, tmp_path: Path):
    train(run_config(), tmp_path / "whole", ranks)
    train(run_config(train__micro_batch_size=2), tmp_path / "parts", ranks)
    whole, parts = read_run(tmp_path / "whole"), read_run(tmp_path / "parts")
    for a, b in zip(curve(whole), curve(parts), strict=True):
        assert a == pytest.approx(b, abs=2e-6)


def test_a_stopped_run_goes_on_as_if_it_had_not(run_config: Make, ranks: Ranks, tmp_path: Path):
    config = run_config("hybrid", train__checkpoint_every=5)
    train(config, tmp_path / "whole", ranks)
    asked = iter([None] * 7 + ["preempted"])
    end = train(config, tmp_path / "parts", ranks, stop=lambda: next(asked))
    assert (end.status, end.step) == ("preempted", 7)
    train(config, tmp_path / "parts", ranks)
    whole, parts = read_run(tmp_path / "whole"), read_run(tmp_path / "parts")
    assert parts.attempts[-1].resumed_from == 7
    assert curve(parts) == curve(whole)
    assert evaluations(parts) == evaluations(whole)


def test_a_loss_that_is_not_finite_ends_the_run_before_the_update(
    run_config: Make, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Step 4 is poisoned; the checkpoint after a stop at step 3 is what the weights still are."""
    kept: list[torch.Tensor] = []
    healthy = loop.feed

    def poisoned(batch, rows, device):
        fed = healthy(batch, rows, device)
        if len(kept) == 3:
            return (*fed[:2], fed[2] * float("nan"), *fed[3:])
        kept.append(fed[0])
        return fed

    monkeypatch.setattr(loop, "feed", poisoned)
    end = train(run_config(), tmp_path, ranks)
    assert (end.status, end.step) == ("diverged", 3)
    assert "step 4" in end.reason
    assert [point.step for point in read_run(tmp_path).points] == [1, 2, 3]


def test_checkpoints_hold_every_parameter_and_its_moments(
    run_config: Make, ranks: Ranks, tmp_path: Path
):
    config = run_config("moe", train__checkpoint_every=6, train__keep_checkpoints=2)
    train(config, tmp_path, ranks)
    folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert folders == ["step-12", "step-6"]
    pieces = Pieces([tmp_path / "checkpoints" / "step-12" / "rank-0.safetensors"])
    assert pieces.kinds - {BUFFER} == {"weight", "exp_avg", "exp_avg_sq", RNG}
    assert pieces.names("weight") == pieces.names("exp_avg")


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "no manifest", "half-written"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    run_config: Make,
    ranks: Ranks,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    harm: str,
):
    config = run_config(train__checkpoint_every=6, train__keep_checkpoints=2)
    train(config, tmp_path, ranks)
    before = curve(read_run(tmp_path))
    newest = tmp_path / "checkpoints" / "step-12"
    shard = newest / "rank-0.safetensors"
    if harm == "flip":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif harm == "truncate":
        shard.write_bytes(shard.read_bytes()[:-9])
    elif harm == "remove":
        shard.unlink()
    elif harm == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        newest.rename(newest.with_name("draft-12"))
    train(config, tmp_path, ranks)
    assert read_run(tmp_path).attempts[-1].resumed_from == 6
    assert curve(read_run(tmp_path)) == before
    said = capsys.readouterr().out
    assert "step-12" in said or "draft-12" in said


def test_a_checkpoint_of_another_configuration_is_not_loaded(
    run_config: Make, ranks: Ranks, tmp_path: Path
):
    train(run_config(train__checkpoint_every=6), tmp_path, ranks)
    train(run_config(train__checkpoint_every=6, train__seed=1), tmp_path, ranks)
    assert read_run(tmp_path).attempts[-1].resumed_from is None
