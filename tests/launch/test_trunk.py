"""Runs that share the constant-rate beginning of a WSD schedule."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from launch.config import RunConfig
from launch.journal import read_run
from launch.manifest import DamagedCheckpointError
from launch.ranks import Ranks
from launch.train import train

Make = Callable[..., RunConfig]
WSD = {"name": "wsd", "warmup_steps": 2, "decay_fraction": 0.5, "final_fraction": 0.0}


def start(config: RunConfig, folder: Path, ranks: Ranks) -> list[tuple[int, float]]:
    folder.mkdir()
    config.write(folder / "config.json")
    assert train(config, folder, ranks).status == "finished"
    return [(point.step, point.loss) for point in read_run(folder).points]


def test_a_branch_is_the_run_that_it_stands_for(run_config: Make, ranks: Ranks, tmp_path: Path):
    """Two lengths decay from one trunk; each equals its own whole run to the bit."""
    constant = {"name": "constant", "warmup_steps": 2}
    trunk = run_config(
        train__steps=10,
        train__schedule=constant,
        train__checkpoint_at=[6, 10],
        train__checkpoint_every=4,
    )
    start(trunk, tmp_path / "trunk", ranks)
    kept = {path.name for path in (tmp_path / "trunk" / "checkpoints").iterdir()}
    assert kept == {"step-6", "step-8", "step-10"}
    for steps in (12, 20):
        whole = run_config(train__steps=steps, train__schedule=WSD)
        at = {"run": str(tmp_path / "trunk"), "step": steps // 2}
        branch = run_config(train__steps=steps, train__schedule=WSD, train__trunk=at)
        expected = start(whole, tmp_path / f"whole-{steps}", ranks)
        assert start(branch, tmp_path / f"branch-{steps}", ranks) == expected[steps // 2 :]
        record = read_run(tmp_path / f"branch-{steps}")
        assert record.attempts[0].resumed_from == steps // 2
        assert record.evals[-1].loss == read_run(tmp_path / f"whole-{steps}").evals[-1].loss


def test_a_trunk_of_other_data_is_refused(run_config: Make, ranks: Ranks, tmp_path: Path):
    start(run_config(train__checkpoint_at=[6]), tmp_path / "trunk", ranks)
    at = {"run": str(tmp_path / "trunk"), "step": 6}
    other = run_config(data__seed=1, train__schedule=WSD, train__trunk=at)
    with pytest.raises(DamagedCheckpointError, match=r"train\.trunk\.run"):
        train(other, tmp_path / "branch", ranks)


def test_a_branch_point_in_the_decay_is_refused(run_config: Make):
    with pytest.raises(ValidationError, match=r"train\.trunk\.step is 7; allowed: at most.* 6"):
        run_config(train__schedule=WSD, train__trunk={"run": "trunk", "step": 7})
