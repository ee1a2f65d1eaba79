"""The parity table: every layout of a run is the same run.

Against a plain PyTorch loop over the whole batch, losses and gradient norms of 12 steps agree to
TOLERANCE["fp32"], clipping and the balancing losses included; in bf16, whose rounding depends on
the layout, runs agree with the fp32 loop to TOLERANCE["bf16"]. What cannot be done is refused by
the config (tests/launch/test_config.py): bf16 at ZeRO 0, and spread experts at ZeRO 3.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.config import RunConfig
from launch.journal import RunRecord

pytestmark = pytest.mark.cluster
Make = Callable[..., RunConfig]
Layout = tuple[int, int, int]
Plain = Callable[[RunConfig], list[tuple[float, float]]]
TOLERANCE = {"fp32": 2e-6, "bf16": 4e-2}
KEPT = {"train__clip": 0.3, "train__checkpoint_every": 6, "train__keep_checkpoints": 2}


def table() -> list[Any]:
    """(recipe, dtype, (ranks, ZeRO stage, expert-parallel size)); a few of them quick."""
    rows = []
    quick = {("dense", (2, 3, 1)), ("hybrid", (2, 1, 1)), *(("moe", (2, z, 2)) for z in (0, 1, 2))}
    for recipe in ("dense", "moe", "hybrid"):
        for dtype in ("fp32", "bf16"):
            for ranks in (1, 2, 4):
                for stage in (0, 1, 2, 3):
                    for experts in (1, 2, 4):
                        if experts > ranks or (experts > 1 and (recipe == "dense" or stage == 3)):
                            continue
                        if (ranks == 1 and stage != 1) or (dtype == "bf16" and stage == 0):
                            continue
                        layout = (ranks, stage, experts)
                        fast = dtype == "fp32" and (recipe, layout) in quick
                        marks = [] if fast else [pytest.mark.slow]
                        name = f"{recipe}-{dtype}-ranks{ranks}-zero{stage}-experts{experts}"
                        rows.append(pytest.param(recipe, dtype, layout, id=name, marks=marks))
    return rows


@pytest.mark.parametrize(
    ("recipe", "stage"),
    [("hybrid", 1), *(pytest.param("dense", z, marks=pytest.mark.slow) for z in (2, 3))],
)
def test_an_offloaded_optimizer_is_the_plain_loop(
    run_config: Make, gangs: Any, plain: Plain, tmp_path: Path, recipe: str, stage: int
):
    config = laid_out(run_config, recipe, (2, stage, 1), parallel__offload=True)
    assert_curve(gangs.run(config, tmp_path), plain(config), TOLERANCE["fp32"])


def laid_out(make: Make, recipe: str, layout: Layout, **changes: Any) -> RunConfig:
    ranks, stage, experts = layout
    return make(
        recipe,
        parallel__ranks=ranks,
        parallel__zero_stage=stage,
        parallel__expert_parallel=experts,
        **KEPT,
        **changes,
    )


def assert_curve(run: RunRecord, expected: list[tuple[float, float]], tolerance: float) -> None:
    assert run.status == "finished", run.end
    found = [(point.loss, point.grad_norm) for point in run.points]
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, abs=tolerance)


@pytest.mark.parametrize(("recipe", "dtype", "layout"), table())
def test_every_layout_is_the_plain_loop(
    run_config: Make,
    gangs: Any,
    plain: Plain,
    tmp_path: Path,
    recipe: str,
    dtype: str,
    layout: Layout,
):
    config = laid_out(run_config, recipe, layout, train__dtype=dtype)
    assert_curve(gangs.run(config, tmp_path), plain(config), TOLERANCE[dtype])


RESHARDED = [
    ("dense", (1, 1, 1), (2, 1, 1)),
    ("moe", (2, 1, 1), (2, 2, 2)),
    ("moe", (2, 1, 2), (2, 3, 1)),
    ("moe", (2, 3, 1), (1, 1, 1)),
    ("hybrid", (4, 1, 4), (2, 0, 2)),
    ("hybrid", (1, 1, 1), (4, 2, 2)),
    ("dense", (4, 3, 1), (2, 2, 1)),
    ("dense", (2, 2, 1), (4, 3, 1)),
]


@pytest.mark.parametrize(
    ("recipe", "before", "after"),
    [
        row if row[1][0] + row[2][0] < 5 else pytest.param(*row, marks=pytest.mark.slow)
        for row in RESHARDED
    ],
)
def test_a_run_goes_on_in_another_layout(
    run_config: Make,
    gangs: Any,
    plain: Plain,
    tmp_path: Path,
    recipe: str,
    before: Layout,
    after: Layout,
):
    """Steps 1 to 6 in one layout and 7 to 12 in the other are the plain loop too."""
    config = laid_out(run_config, recipe, before)
    gangs.run(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-12")
    run = gangs.run(laid_out(run_config, recipe, after), tmp_path)
    assert run.attempts[-1].resumed_from == 6
    assert_curve(run, plain(config), TOLERANCE["fp32"])


@pytest.mark.parametrize("layout", [(2, 1, 2), (2, 2, 1), (2, 3, 1)])
def test_the_same_layout_goes_on_to_the_bit(
    run_config: Make, gangs: Any, tmp_path: Path, layout: Layout
):
    config = laid_out(run_config, "moe", layout)
    whole = [point.loss for point in gangs.run(config, tmp_path).points]
    shutil.rmtree(tmp_path / "checkpoints" / "step-12")
    run = gangs.run(config, tmp_path)
    assert run.attempts[-1].resumed_from == 6
    assert [point.loss for point in run.points] == whole
