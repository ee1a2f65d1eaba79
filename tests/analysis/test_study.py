"""One call answers a study: laws, allocations, gains, and their pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import AnalysisError, StudyAnalysis, analyze
from analysis.notices import ObjectivesDiffer
from analysis.plots import write
from analysis.synthetic import HOFFMANN, isoflop_grid

BUDGETS = np.geomspace(1e18, 1e21, 4)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """A dense family and one that needs half its compute at every loss."""
    dense = isoflop_grid(HOFFMANN, BUDGETS, 7, 4, noise=0.002)
    cheap = isoflop_grid(HOFFMANN, BUDGETS * 2, 7, 4, noise=0.002, seed=1)
    cheap["flops"] /= 2
    parts = [dense.assign(architecture="dense"), cheap.assign(architecture="cheap")]
    frame = pd.concat(parts, ignore_index=True)
    frame["run"] = [f"run-{i}" for i in range(len(frame))]
    return frame.assign(budget=frame["flops"], params_total=frame["params"] + 3e7)


@pytest.fixture(scope="module")
def study(table: pd.DataFrame) -> StudyAnalysis:
    return analyze(table, baseline="dense", resamples=200)


def test_the_planted_gain_is_found(study: StudyAnalysis) -> None:
    assert len(study.gains) == len(BUDGETS) + 2
    inside = study.gains[: len(BUDGETS)]
    assert [gain.gain.value for gain in inside] == pytest.approx([2.0] * len(inside), rel=0.05)
    assert sum(2.0 in gain.gain for gain in inside) >= len(inside) - 1
    assert all(gain.decided for gain in inside)


def test_losses_of_different_objectives_are_not_compared(table: pd.DataFrame) -> None:
    objective = table["architecture"].map({"dense": "causal", "cheap": "masked"})
    found = analyze(table.assign(objective=objective), baseline="dense", resamples=50)
    assert not found.gains
    assert not found.crossings
    [told] = [n for n in found.notices if isinstance(n, ObjectivesDiffer)]
    assert "no gain of cheap over dense" in told.message
    assert "'masked'" in told.message


def test_a_ladder_is_not_told_that_it_lacks_profiles(table: pd.DataFrame) -> None:
    dense = table[table["architecture"] == "dense"]
    ladder = dense.assign(budget=dense["flops"] * (1 + np.arange(len(dense)) / 1e3))
    part = analyze(ladder, [1e21], resamples=50).architectures["dense"]
    assert part.approach2 is None
    assert part.approach3 is not None
    assert not any("no exponent" in notice.message for notice in part.notices)


def test_every_target_has_an_allocation_by_both_approaches(study: StudyAnalysis) -> None:
    assert study.targets == (*BUDGETS, 10 * BUDGETS[-1], 100 * BUDGETS[-1])
    for part in study.architectures.values():
        for allocations in part.allocations.values():
            assert [a.flops for a in allocations] == list(study.targets)
            assert allocations[-1].extrapolation == pytest.approx(100)
            assert [n.to_dict()["type"] for n in allocations[-1].notices] == ["Extrapolating"]
            assert not allocations[0].notices


def test_another_count_of_parameters_gives_another_exponent(study: StudyAnalysis) -> None:
    part = study.architectures["dense"]
    assert part.approach3
    other = part.conventions["params_total"]["approach3"]
    assert other.value < part.approach3.derived["a"].value


def test_noise_that_architectures_share_cancels_in_their_gain() -> None:
    """Runs of one budget and place share a seed: drawn together, their gain is known better."""
    dense = isoflop_grid(HOFFMANN, BUDGETS, 7, 4)
    shared = np.exp(0.01 * np.random.default_rng(2).standard_normal(len(dense)))
    units = [f"seed-{i}" for i in range(len(dense))]
    dense = dense.assign(architecture="dense", seed=units, loss=dense["loss"] * shared)
    cheap = isoflop_grid(HOFFMANN, BUDGETS * 2, 7, 4)
    cheap = cheap.assign(architecture="cheap", seed=units, loss=cheap["loss"] * shared)
    cheap["flops"] /= 2
    frame = pd.concat([dense, cheap], ignore_index=True)
    alone, paired = (
        analyze(frame, BUDGETS, baseline="dense", resamples=300, pair_by=column).gains[1].gain
        for column in (None, "seed")
    )
    assert 2.0 in paired
    assert paired.high / paired.low < 0.5 * alone.high / alone.low + 0.5
    with pytest.raises(AnalysisError, match="no column 'sede'"):
        analyze(frame, BUDGETS, resamples=0, pair_by="sede")


def test_the_answer_is_strict_json(study: StudyAnalysis) -> None:
    read = json.loads(study.to_json(), parse_constant=pytest.fail)
    assert set(read["architectures"]) == {"dense", "cheap"}
    assert read["baseline"] == "dense"


def test_an_unknown_baseline_names_the_known(table: pd.DataFrame) -> None:
    with pytest.raises(AnalysisError, match="'denze' is not in the table, which has: cheap, dense"):
        analyze(table, baseline="denze", resamples=0)


def test_every_chart_is_written_and_self_contained(study: StudyAnalysis, tmp_path: Path) -> None:
    paths = write(study, tmp_path)
    assert {path.suffix for path in paths} == {".png", ".html"}
    assert all(path.stat().st_size > 20_000 for path in paths)
    pages = [path.read_text() for path in paths if path.suffix == ".html"]
    assert not any('src="http' in page for page in pages)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, analysis; print(*sorted(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "pandas", "scipy", "matplotlib", "plotly", "torch", "ray"} & set(modules)
