"""Loss spikes are counted, and skipped if asked, with the run resumable to the bit."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from data.batch import Batch
from data.loader import Loader
from launch.config import RunConfig
from launch.journal import RunRecord, read_run
from launch.ranks import Ranks
from launch.spikes import PATIENCE, WINDOW, Spikes
from launch.train import train

Make = Callable[..., RunConfig]
BAD = 70


def test_only_what_stands_out_is_a_spike():
    random, spikes = np.random.default_rng(0), Spikes()
    losses = 3 + 0.05 * random.standard_normal(500) - np.linspace(0, 1, 500)
    assert [spikes.deviations(loss) for loss in losses] == [None] * 500
    assert spikes.deviations(4.0) == pytest.approx(25, rel=0.5)
    assert spikes.deviations(2.0) is None


def test_none_is_a_spike_before_the_window_is_full():
    spikes = Spikes()
    assert [spikes.deviations(loss) for loss in range(WINDOW - 1)] == [None] * (WINDOW - 1)
    assert spikes.deviations(1e9) is None


def test_a_level_that_lasts_is_no_spike():
    """Without an end to it a skipping run would never learn again."""
    spikes = Spikes()
    for loss in 3 + 0.05 * np.random.default_rng(0).standard_normal(WINDOW):
        spikes.deviations(float(loss))
    told = [spikes.deviations(5.0 + 0.01 * i) for i in range(3 * WINDOW)]
    assert all(told[: PATIENCE - 1])
    assert told[PATIENCE - 1 :] == [None] * (3 * WINDOW - PATIENCE + 1)


@pytest.fixture
def foreign_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch has nothing to do with the others: the same token all over."""
    healthy = Loader.batch

    def batch(self: Loader, step: int, *rank: int) -> Batch:
        good = healthy(self, step, *rank)
        if step + 1 != BAD:
            return good
        return replace(good, targets_BT=np.zeros_like(good.targets_BT))

    monkeypatch.setattr(Loader, "batch", batch)


def trained(config: RunConfig, folder: Path, ranks: Ranks) -> RunRecord:
    train(config, folder, ranks)
    return read_run(folder)


def curve(run: RunRecord) -> list[tuple[int, float]]:
    return [(point.step, point.loss) for point in run.points]


SETTINGS: dict[str, Any] = {"train__steps": 80, "train__checkpoint_every": 66}


def test_a_spike_is_counted_and_learned_from_by_default(
    foreign_step: None, run_config: Make, ranks: Ranks, tmp_path: Path
):
    run = trained(run_config(**SETTINGS), tmp_path, ranks)
    assert [(spike.step, spike.skipped) for spike in run.spikes] == [(BAD, False)]
    assert run.spikes[0].loss == run.points[BAD - 1].loss


def test_a_skipped_step_leaves_weights_and_moments_alone(
    foreign_step: None, run_config: Make, ranks: Ranks, tmp_path: Path
):
    """The step after it has the loss that it would have had in the skipped one's place."""
    skipping = run_config(train__spikes="skip", **SETTINGS)
    run = trained(skipping, tmp_path / "run", ranks)
    assert [(spike.step, spike.skipped) for spike in run.spikes] == [(BAD, True)]
    flagged = trained(run_config(**SETTINGS), tmp_path / "flagged", ranks)
    assert curve(run)[:BAD] == curve(flagged)[:BAD]
    assert run.points[BAD].loss < flagged.points[BAD].loss


def test_a_run_resumed_before_a_spike_judges_it_alike(
    foreign_step: None, run_config: Make, ranks: Ranks, tmp_path: Path
):
    config = run_config(train__spikes="skip", train__keep_checkpoints=2, **SETTINGS)
    whole = trained(config, tmp_path, ranks)
    shutil.rmtree(tmp_path / "checkpoints" / "step-80")
    again = trained(config, tmp_path, ranks)
    assert again.attempts[-1].resumed_from == 66
    assert [(s.step, s.deviations) for s in again.spikes] == [
        (s.step, s.deviations) for s in whole.spikes
    ]
    assert curve(again) == curve(whole)


def test_skipping_is_another_run_and_flagging_is_not(run_config: Make):
    assert run_config().fingerprint() == run_config(train__spikes="flag").fingerprint()
    assert run_config().fingerprint() != run_config(train__spikes="skip").fingerprint()


@pytest.mark.cluster
@pytest.mark.parametrize("stage", [1, 3])
def test_steps_are_skipped_where_zero_spreads_the_optimizer(
    run_config: Make, gangs: Any, tmp_path: Path, stage: int
):
    """Every step is a spike to a judge who sees them so: nothing moves."""
    config = run_config(
        parallel__ranks=2, parallel__zero_stage=stage, train__spikes="skip", train__steps=6
    )
    gang = gangs.of(config)
    ray.get([actor.__ray_call__.remote(_suspect_all) for actor in gang._actors])
    run = gangs.run(config, tmp_path)
    gang.close()
    gangs.idle.clear()
    assert run.status == "finished", run.end
    assert len(run.spikes) == 6
    initial = torch.log(torch.tensor(32.0)).item()
    assert [point.loss for point in run.points] == pytest.approx([initial] * 6, abs=0.05)
    assert run.evals[0].loss == run.evals[-1].loss


def _suspect_all(worker: Any) -> None:
    Spikes.deviations = lambda self, loss: 99.0  # type: ignore[method-assign]
