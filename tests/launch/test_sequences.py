"""Ranks that share sequences: whoever holds which slice of them, the run is the same run.

Losses and gradient norms of 12 steps, clipped, against the plain loop on whole sequences or, where
that cannot do what is asked, against one rank of the same loop. Tolerances are those of
tests/launch/test_layouts.py.
"""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from data.batch import Batch
from launch.config import RunConfig
from launch.journal import read_run
from launch.ranks import Ranks
from launch.reading import cut
from launch.train import train
from models import Recipe
from tests.launch.conftest import VOCAB, PlainRun
from tests.launch.test_layouts import KEPT, assert_curve, assert_same

Make = Callable[..., RunConfig]
Plain = Callable[[RunConfig], PlainRun]
HEADS = {"attention": {"n_heads": 4, "n_kv_heads": 2}}
MOE = {"moe": {"n_experts": 4, "top_k": 2}}
RECIPES: dict[str, dict[str, Any]] = {
    "dense": {"pattern": "attention+mlp", "branches": HEADS, "positions": "rope"},
    "moe": {"pattern": "attention+moe", "branches": HEADS | MOE},
    "hybrid": {"pattern": "mamba+mlp attention+moe", "branches": HEADS | MOE},
    "masked": {
        "pattern": "attention+mlp",
        "branches": {"attention": {"n_heads": 4, "causal": False}},
        "positions": "learned",
        "objective": "masked",
    },
    "further": {
        "pattern": "attention+moe",
        "branches": HEADS | MOE,
        "objective": {"type": "multi_token", "depth": 2},
    },
}


def model_of(name: str) -> dict[str, Any]:
    recipe = Recipe.from_dict(RECIPES[name])
    return recipe.at(width=16, n_layers=2, vocab_size=VOCAB + 1).to_dict()


def shared(
    make: Make,
    name: str,
    size: int = 2,
    mode: str = "ulysses",
    *,
    ranks: int = 2,
    stage: int = 1,
    experts: int = 1,
    **changes: Any,
) -> RunConfig:
    layout = {"ranks": ranks, "zero_stage": stage, "expert_parallel": experts}
    if size > 1:
        layout |= {"sequence_parallel": size, "sequence_mode": mode}
    return make(model=model_of(name), parallel=layout, **KEPT, **changes)


def table() -> list[Any]:
    """(recipe, ranks of a sequence, mode, ranks, ZeRO stage, expert-parallel size)."""
    quick = {
        ("dense", 2, "ulysses", 2, 3, 1),
        ("dense", 2, "ring", 2, 2, 1),
        ("moe", 2, "ulysses", 2, 2, 2),
        ("hybrid", 2, "ulysses", 2, 1, 1),
    }
    rows = itertools.product(
        ("dense", "moe", "hybrid"), (2, 4), ("ulysses", "ring"), (2, 4), (0, 1, 2, 3), (1, 2)
    )
    found = []
    for row in rows:
        name, size, mode, ranks, stage, experts = row
        impossible = size > ranks or (stage == 3 and experts > 1) or (name, experts) == ("dense", 2)
        if impossible or (name == "hybrid" and stage > 1):
            continue
        marks = [] if row in quick else [pytest.mark.slow]
        identity = f"{name}-{mode}{size}-ranks{ranks}-zero{stage}-experts{experts}"
        found.append(pytest.param(*row, id=identity, marks=marks))
    return found


@pytest.mark.cluster
@pytest.mark.parametrize(("name", "size", "mode", "ranks", "stage", "experts"), table())
def test_slices_are_the_plain_loop(
    run_config: Make,
    gangs: Any,
    plain: Plain,
    tmp_path: Path,
    name: str,
    size: int,
    mode: str,
    ranks: int,
    stage: int,
    experts: int,
):
    config = shared(run_config, name, size, mode, ranks=ranks, stage=stage, experts=experts)
    assert_same(gangs.run(config, tmp_path), plain(config), "fp32")


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("name", "mode", "changes"),
    [
        ("masked", "ring", {}),
        ("further", "ulysses", {"data__separate_documents": True}),
        pytest.param("masked", "ulysses", {"train__micro_batch_size": 2}, marks=pytest.mark.slow),
        ("dense", "ulysses", {"data__separate_documents": True, "train__z_loss": 0.01}),
        pytest.param("hybrid", "ring", {"data__packing": "best-fit"}, marks=pytest.mark.slow),
        ("hybrid", "ulysses", {"train__activation_checkpointing": True}),
        pytest.param(
            "moe", "ring", {"train__activation_checkpointing": True}, marks=pytest.mark.slow
        ),
    ],
)
def test_slices_are_one_rank(
    run_config: Make,
    ranks: Ranks,
    gangs: Any,
    tmp_path: Path,
    name: str,
    mode: str,
    changes: dict[str, Any],
):
    """Targets and their weights, documents, micro-batches, evaluations: none minds the cut."""
    train(shared(run_config, name, size=1, ranks=1, **changes), tmp_path / "one", ranks)
    one = read_run(tmp_path / "one")
    two = gangs.run(shared(run_config, name, mode=mode, **changes), tmp_path / "two")
    assert_curve(two, [(p.loss, p.grad_norm or 0.0) for p in one.points], 2e-5)
    for a, b in zip(one.evals, two.evals, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=2e-5)


@pytest.mark.cluster
@pytest.mark.parametrize("mode", ["ulysses", pytest.param("ring", marks=pytest.mark.slow)])
def test_slices_in_bf16(run_config: Make, gangs: Any, plain: Plain, tmp_path: Path, mode: str):
    config = shared(run_config, "dense", mode=mode, train__dtype="bf16")
    assert_same(gangs.run(config, tmp_path), plain(config), "bf16")


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"size": 2, "ranks": 2}, {"size": 1, "ranks": 1}),
        pytest.param(
            {"size": 1, "ranks": 2, "stage": 2}, {"size": 2, "ranks": 4}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"size": 4, "mode": "ring", "ranks": 4, "stage": 3},
            {"size": 2, "ranks": 2, "experts": 2},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_goes_on_with_other_slices(
    run_config: Make, gangs: Any, plain: Plain, tmp_path: Path, before: Any, after: Any
):
    config = shared(run_config, "moe", **before)
    gangs.run(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-12")
    run = gangs.run(shared(run_config, "moe", **after), tmp_path)
    assert run.attempts[-1].resumed_from == 6
    assert_same(run, plain(config), "fp32")


def test_a_cut_leaves_no_position_out():
    rows = np.arange(24).reshape(2, 12)
    parts = [cut(Batch(rows, rows + 1, rows * 1.0, rows // 5), i, 3) for i in range(3)]
    for name in ("tokens_BT", "targets_BT", "weights_BT", "segments_BT"):
        whole = np.concatenate([getattr(part, name) for part in parts], 1)
        assert np.array_equal(whole, getattr(Batch(rows, rows + 1, rows * 1.0, rows // 5), name))
    assert parts[0].positions_BT is None


def test_a_layout_without_slices_keeps_its_fingerprint(run_config: Make):
    assert "sequence_parallel" not in run_config().model_dump_json()
    plain, cut_up = (shared(run_config, "dense", size) for size in (1, 2))
    assert plain.fingerprint() != cut_up.fingerprint()
    assert plain.trajectory() == cut_up.trajectory()


@pytest.mark.parametrize(
    ("name", "layout", "changes", "told"),
    [
        ("dense", {"size": 2, "ranks": 3}, {}, r"sequence_parallel is 2; .*divisor of .*is 3"),
        ("dense", {}, {"data__sequence_length": 15}, r"is 2; .* sequence length, which is 15"),
        ("dense", {"size": 8, "ranks": 8}, {}, r"is 8 .*attention.n_heads.*: 4; .*mode ring"),
        ("hybrid", {"stage": 2}, {}, r"zero_stage is 2 with .*recurrence; allowed: 0, 1, since"),
        ("hybrid", {"stage": 3}, {}, r"zero_stage is 3 with .*recurrence; allowed: 0, 1, since"),
        ("moe", {"stage": 3, "experts": 2}, {}, r"zero_stage is 3 with parallel.expert_parallel"),
        ("dense", {"ranks": 4}, {"data__batch_size": 3}, r"is 4 over .*sequence_parallel.* is 2"),
        ("dense", {"mode": "zigzag"}, {}, r"sequence_mode"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    run_config: Make, name: str, layout: dict[str, Any], changes: dict[str, Any], told: str
):
    with pytest.raises(ValidationError, match=told):
        shared(run_config, name, **layout, **changes)
