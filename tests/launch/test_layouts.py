"""The parity table: every layout of a run is the same run.

Against a plain PyTorch loop over the whole batch, losses and gradient norms of 12 steps agree to
TOLERANCE["fp32"] and every parameter's gradients, as AdamW's first moment has kept them, to
GRADIENTS["fp32"] of their norm, clipping and the balancing losses included. In bf16, whose rounding
depends on the layout and sends some tokens to other experts, the reference is the same loop in fp32
and the gradients are compared as one vector. What cannot be done, spread experts at ZeRO 3, is
refused by the config (tests/launch/test_config.py).
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ruamel.yaml import YAML
from torch import Tensor

from launch.config import RunConfig
from launch.engine import Engine
from launch.journal import RunRecord, read_run
from launch.ranks import Ranks
from launch.train import train
from models import ModelConfig, Recipe, build
from tests.launch.conftest import VOCAB, PlainRun, saved_moments

pytestmark = pytest.mark.cluster
Make = Callable[..., RunConfig]
Layout = tuple[int, int, int]
Plain = Callable[[RunConfig], PlainRun]
TOLERANCE = {"fp32": 2e-6, "bf16": 1e-2}
GRADIENTS = {"fp32": 1e-4, "bf16": 0.1}
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
                        if ranks == 1 and stage != 1:
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
    assert_same(gangs.run(config, tmp_path), plain(config), "fp32")


def laid_out(make: Make, recipe: str, layout: Layout, **changes: Any) -> RunConfig:
    ranks, stage, experts = layout
    return make(
        recipe,
        parallel__ranks=ranks,
        parallel__zero_stage=stage,
        parallel__expert_parallel=experts,
        **(KEPT | changes),
    )


def assert_same(run: RunRecord, expected: PlainRun, dtype: str) -> None:
    assert_curve(run, expected.curve, TOLERANCE[dtype])
    assert_gradients(run.folder, expected.moments, dtype)


def assert_gradients(run: Path, expected: dict[str, Tensor], dtype: str = "fp32") -> None:
    found = saved_moments(run, expected)
    apart = {name: float((found[name] - wanted).norm()) for name, wanted in expected.items()}
    norms = {name: float(wanted.norm()) for name, wanted in expected.items()}
    if dtype == "bf16":
        apart, norms = ({"all": math.hypot(*parts.values())} for parts in (apart, norms))
    bad = {n: (far, norms[n]) for n, far in apart.items() if far > GRADIENTS[dtype] * norms[n]}
    assert bad == {}


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
    assert_same(gangs.run(config, tmp_path), plain(config), dtype)


CONFIGS = Path(__file__).parents[2] / "configs" / "models"
ROUTED = sorted(path.stem for path in CONFIGS.glob("*.yaml") if "+moe" in path.read_text())


@pytest.mark.parametrize("name", ROUTED)
def test_every_router_of_the_zoo_finds_its_experts_on_other_ranks(
    run_config: Make, ranks: Ranks, gangs: Any, tmp_path: Path, name: str
):
    """Scores, groups, selection biases that follow the load, weighed inputs, shared experts."""
    recipe = Recipe.from_dict(YAML(typ="safe").load(CONFIGS / f"{name}.yaml"))
    shape = {"width": 32, "n_layers": len(recipe.first_layers) + len(recipe.layers)}
    model = recipe.at(**shape, vocab_size=VOCAB + recipe.task.special).to_dict()
    kept = {"model": model, "train__steps": 4, "train__checkpoint_every": 4}
    train(run_config(**kept), tmp_path / "one", ranks)
    one = read_run(tmp_path / "one")
    spread = run_config(**kept, parallel__ranks=2, parallel__expert_parallel=2)
    run = gangs.run(spread, tmp_path / "two")
    assert_curve(run, [(point.loss, point.grad_norm or 0.0) for point in one.points], 2e-5)
    assert run.points[-1].aux == pytest.approx(one.points[-1].aux, abs=1e-5)
    with torch.device("meta"):
        params = dict(build(ModelConfig.from_dict(model)).named_parameters())
    blank = {name: torch.empty(param.shape) for name, param in params.items()}
    assert_gradients(run.folder, saved_moments(tmp_path / "one", blank))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "layout", "dtype"),
    [("dense", (2, 1, 1), "fp32"), ("hybrid", (2, 2, 2), "fp32"), ("dense", (2, 0, 1), "bf16")],
)
def test_compiled_branches_are_the_plain_loop(
    run_config: Make,
    gangs: Any,
    plain: Plain,
    tmp_path: Path,
    recipe: str,
    layout: Layout,
    dtype: str,
):
    config = laid_out(run_config, recipe, layout, train__compile=True, train__dtype=dtype)
    assert_same(gangs.run(config, tmp_path), plain(config), dtype)


@pytest.mark.parametrize(
    ("name", "layout", "dtype"),
    [
        ("muon", (2, 0, 2), "fp32"),
        ("muon", (2, 0, 1), "bf16"),
        ("adafactor", (2, 0, 1), "fp32"),
        pytest.param("muon", (2, 0, 1), "fp32", marks=pytest.mark.slow),
        pytest.param("muon", (4, 0, 4), "fp32", marks=pytest.mark.slow),
        pytest.param("adafactor", (2, 0, 1), "bf16", marks=pytest.mark.slow),
    ],
)
def test_other_optimizers_are_one_rank(
    run_config: Make,
    ranks: Ranks,
    gangs: Any,
    tmp_path: Path,
    name: str,
    layout: Layout,
    dtype: str,
):
    """Muon turns whole matrices: of spread experts each rank its own."""
    rate = {"muon": 1e-2, "adafactor": 0.05}[name]
    given = {"train__optimizer": {"name": name, "learning_rate": rate}, "train__dtype": dtype}
    train(laid_out(run_config, "moe", (1, 0, 1), **given), tmp_path / "one", ranks)
    one = read_run(tmp_path / "one")
    run = gangs.run(laid_out(run_config, "moe", layout, **given), tmp_path / "spread")
    tolerance = {"fp32": 2e-5, "bf16": 1e-2}[dtype]
    assert_curve(run, [(point.loss, point.grad_norm or 0.0) for point in one.points], tolerance)
    assert run.points[-1].loss < run.points[0].loss - 0.1


def test_a_run_that_loses_a_rank_and_gets_it_back_sees_the_same_samples(
    run_config: Make, gangs: Any, plain: Plain, tmp_path: Path
):
    """Steps 1 to 4 on two ranks, 5 to 8 on one, 9 to 12 on two."""
    cadence = {"train__checkpoint_every": 4, "train__keep_checkpoints": 3}
    for stop, layout in ((4, (2, 1, 2)), (8, (1, 1, 1)), (12, (2, 2, 1))):
        config = laid_out(run_config, "moe", layout, **cadence)
        run = gangs.run(config, tmp_path)
        for step in range(stop + 4, 13, 4):
            shutil.rmtree(tmp_path / "checkpoints" / f"step-{step}")
    assert [attempt.resumed_from for attempt in run.attempts] == [None, 4, 8]
    assert [attempt.world for attempt in run.attempts] == [2, 1, 2]
    assert_same(run, plain(config), "fp32")


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
    assert_same(run, plain(config), "fp32")


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


class _Spoiled(torch.autograd.Function):
    """Zero, whose gradient is not a number."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return torch.zeros_like(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.nan


def _spoil(worker: Any) -> None:
    """The fourth backward pass of this process goes wrong, though its loss does not."""
    healthy, passes = Engine.backward, iter(range(1, 100))

    def backward(self: Engine, loss: Tensor) -> None:
        healthy(self, loss + _Spoiled.apply(loss) if next(passes) == 4 else loss)

    Engine.backward = backward  # type: ignore[method-assign]


@pytest.mark.parametrize("stage", [0, 1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_one_ranks_bad_gradient_ends_the_run_before_the_update(
    run_config: Make, gangs: Any, tmp_path: Path, stage: int
):
    config = laid_out(run_config, "dense", (2, stage, 1))
    gang = gangs.of(config)
    ray.get(gang._actors[1].__ray_call__.remote(_spoil))
    run = gangs.run(config, tmp_path)
    gang.close()
    gangs.idle.clear()
    assert run.end
    assert (run.end.status, run.end.step) == ("diverged", 3)
    assert "gradient of step 4" in run.end.reason
