"""Checkpoints: whole or not there, whatever happened to the disk meanwhile."""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors import SafetensorError

from launch import checkpoint
from launch.checkpoint import CheckpointError
from launch.config import RunConfig
from launch.journal import read_run
from launch.manifest import digest, read_manifest, write_manifest
from launch.pieces import BUFFER, RNG, Pieces
from launch.ranks import Ranks
from launch.train import train
from tests.launch.test_train import curve

Make = Callable[..., RunConfig]


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


def test_a_foreign_checkpoint_runs_no_code_of_its_own(
    run_config: Make, ranks: Ranks, tmp_path: Path
):
    """A pickle in the place of a shard, with a manifest that vouches for it."""
    config = run_config(train__checkpoint_every=6)
    train(config, tmp_path, ranks)
    folder, touched = tmp_path / "checkpoints" / "step-12", tmp_path / "touched"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (touched,))

    shard = folder / "rank-0.safetensors"
    torch.save({"weight": Payload()}, shard)
    known = read_manifest(folder)
    write_manifest(folder, known | {"files": {shard.name: digest(shard)}})
    with pytest.raises(SafetensorError):
        train(config, tmp_path, ranks)
    assert not touched.exists()


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


@pytest.mark.parametrize(
    "harm",
    ["flip", "truncate", "remove", "no manifest", "half-written", "optimizer_steps", "files", "["],
)
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
    elif harm in ("optimizer_steps", "files", "["):
        text = (newest / "manifest.json").read_text()
        at = text.index(harm) + (harm == "optimizer_steps") * (len(harm) + 3) if harm in text else 0
        flipped = chr(ord(text[at]) ^ 1)
        (newest / "manifest.json").write_text(text[:at] + flipped + text[at + 1 :])
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


def _slow_disk(worker: Any) -> None:
    """This process's checkpoints take five seconds to be written."""
    healthy = checkpoint._write

    def write(*given: Any) -> None:
        time.sleep(5.0)
        healthy(*given)

    checkpoint._write = write


@pytest.mark.cluster
def test_nobody_is_blamed_for_a_disk_that_takes_its_time(
    run_config: Make, gangs: Any, tmp_path: Path
):
    """Longer than a step may, for one of two ranks, while the other waits for it."""
    config = run_config(parallel__ranks=2, parallel__step_timeout=2, train__checkpoint_every=12)
    gang = gangs.of(config)
    ray.get(gang._actors[0].__ray_call__.remote(_slow_disk))
    run = gangs.run(config, tmp_path)
    gang.close()
    gangs.idle.clear()
    assert run.status == "finished", run.end
    assert [saved.step for saved in run.checkpoints] == [12]
