"""Rows cut into slices over ranks: loss and gradients are those of whole rows on one rank.

In float64, of every recipe that can be cut, with and without packed documents, over unequal weights
and recomputed activations. One gang of processes computes all cases.
"""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models import Model, ModelConfig, Recipe, RecipeError, registry
from models.channels.moe import Moe
from models.engines import ring
from models.engines.slices import Slices
from models.residual import Layer
from models.slicing import ATTENDING, POINTWISE, RELAYED, check
from models.training import losses
from tests.models.conftest import NAMES, VOCAB, Zoo

B, T = 2, 16
MODES = ("ulysses", "ring")
TOLERANCE = 1e-6  # weights, and so losses, are divided in float32
GIVEN: dict[str, dict[str, Any]] = {
    "relative": {"pattern": "attention+mlp", "positions": "relative"},
    "multi_query": {"pattern": "attention+mlp", "branches": {"attention": {"n_kv_heads": 1}}},
    "strided": {
        "pattern": "attention+mlp",
        "positions": "alibi",
        "branches": {"attention": {"stride": 3, "local": 2, "n_global": 1, "softcap": 5.0}},
    },
    "one_head": {"pattern": "attention+mlp", "branches": {"attention": {"n_heads": 1}}},
    "truncated": {"pattern": "recurrent", "branches": {"recurrent": {"truncate": 3}}},
    "shared": {"pattern": "mamba+&rwkv_channel mamba2+&rwkv_channel attention+&rwkv_channel"},
    "parallel": {"pattern": "attention+mamba", "norm": {"placement": "parallel"}},
}


class Case(NamedTuple):
    """`variant`: whole rows, packed documents, or activations that are computed again."""

    name: str
    mode: str
    variant: str


def config_of(name: str, width: int) -> ModelConfig:
    if name not in GIVEN:
        return Zoo.small(name, width)
    return Recipe.from_dict(GIVEN[name]).at(width=width, n_layers=3, vocab_size=VOCAB)


def can_be_cut(name: str, width: int, size: int, mode: str) -> bool:
    try:
        check(config_of(name, width), size, mode)
    except RecipeError:
        return False
    return True


def cases(width: int, size: int) -> list[Case]:
    """Every recipe in every way that takes it."""
    return [
        Case(name, mode, variant)
        for name in [*NAMES, *GIVEN]
        for mode in ("ulysses", "ring")
        if can_be_cut(name, width, size, mode) and (mode == "ulysses" or attends(name, width))
        for variant in ("plain", "packed", "again")
    ]


def attends(name: str, width: int) -> bool:
    return not ATTENDING.isdisjoint(
        options["type"] for options in config_of(name, width).recipe.branches.values()
    )


QUICK = [
    *(
        Case(name, "ulysses", "packed")
        for name in ("llama", "multi_query", "strided", "hybrid", "s4", "deepseek_v3_mtp")
    ),
    *(Case(name, "ring", "packed") for name in ("llama", "one_head", "strided", "bert")),
]


class Mean:
    """The `Dispatcher` of ranks that each hold every expert."""

    def exchange(self, rows_ND: Tensor, counts_E: Tensor, experts: Any) -> Tensor:
        return experts(rows_ND, counts_E)

    def mean(self, value: Tensor) -> Tensor:
        dist.all_reduce(total := value.detach().clone())
        return total / dist.get_world_size()


def inputs(model: Model, variant: str) -> dict[str, Tensor]:
    """Rows whose weights are no slice's equal; of packed documents one ends where a slice does."""
    given = Zoo.example(model, B, T)
    given["weights_BT"] = 0.5 + torch.rand(B, T, generator=torch.Generator().manual_seed(2))
    if variant == "packed":
        ends = [[0, 5, 8, T], [0, 3, 14, T]]
        lengths = [[b - a for a, b in pairwise(row)] for row in ends]
        given["segments_BT"] = torch.stack(
            [torch.arange(3).repeat_interleave(torch.tensor(row)) for row in lengths]
        )
        given["positions_BT"] = torch.stack(
            [torch.cat([torch.arange(n) for n in row]) for row in lengths]
        )
    return given


def loss_and_gradients(model: Model, given: dict[str, Tensor], share: Tensor) -> list[Tensor]:
    """As `launch.objective` weighs them; `share` is ranks over the weight of whole rows."""
    found = losses(model, **given, label_smoothing=0.1, z_loss=0.01)
    objective = found.summed * share
    if found.balance is not None:
        objective = objective + found.balance
    objective.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [objective.detach(), *(torch.zeros(()) if g is None else g for g in gradients)]


def difference(case: Case, width: int) -> float:
    """The most by which a gradient, or the loss, is another than one rank's, of its largest."""
    config, size = config_of(case.name, width), dist.get_world_size()
    whole, cut = (Zoo.randomized(config) for _ in range(2))
    given = inputs(whole, case.variant)
    expected = loss_and_gradients(whole, given, 1 / given["weights_BT"].sum())
    cut.slices = Slices(dist.group.WORLD, case.mode)
    for module in cut.modules():
        if isinstance(module, Moe):
            module.expert_group = Mean()
        if isinstance(module, Layer) and case.variant == "again":
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
    own = slice(dist.get_rank() * T // size, (dist.get_rank() + 1) * T // size)
    slices = {name: rows[:, own].contiguous() for name, rows in given.items()}
    found = loss_and_gradients(cut, slices, size / given["weights_BT"].sum())
    for value in found:
        dist.all_reduce(value)
    pairs = zip(found, expected, strict=True)
    return max(float((a / size - b).abs().max() / (b.abs().max() + 1e-6)) for a, b in pairs)


def compute(rank: int, size: int, store: str, width: int, todo: list[Case], results: Any) -> None:
    torch.set_num_threads(1)
    ring.BLOCK = 3  # keys of a slice are several blocks, the last a short one
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    for case in todo:
        results[case] = difference(case, width)
    dist.barrier()
    dist.destroy_process_group()


def assert_same(size: int, width: int, todo: list[Case]) -> None:
    with tempfile.TemporaryDirectory() as folder, mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(compute, (size, f"{folder}/store", width, todo, results), nprocs=size)
        assert {case: value for case, value in results.items() if not value < TOLERANCE} == {}
        assert set(results.keys()) == set(todo)


def test_two_slices_are_whole_rows() -> None:
    assert_same(2, 32, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "width"), [(2, 32), (4, 64)])
def test_slices_of_every_recipe_are_whole_rows(size: int, width: int) -> None:
    assert_same(size, width, cases(width, size))


def test_branches_are_told_apart_by_their_names() -> None:
    kinds = [POINTWISE, ATTENDING, RELAYED]
    assert frozenset().union(*kinds) <= registry.branches().keys()
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))


@pytest.mark.parametrize(
    ("name", "size", "mode", "told"),
    [
        ("llama", 4, "ulysses", r"branches.attention.n_heads.*4 ranks.*: 2; .* ring"),
        ("gau", 2, "ulysses", r"branches.gau.n_heads.*: 1; allowed: a multiple of 2"),
        ("relative", 2, "ring", r"positions.type.*'relative'.*sequence_mode ulysses"),
        ("deberta", 2, "ulysses", r"branches.disentangled.type.*cannot be trained.*2 slices"),
        ("birnn", 2, "ulysses", r"branches.bidirectional.type.*cannot be trained"),
        ("t5", 2, "ulysses", r"objective.type.*'span_corruption'; allowed: causal, masked"),
        ("electra", 2, "ring", r"generator.*2 slices"),
    ],
)
def test_what_cannot_be_cut_is_named(name: str, size: int, mode: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        check(config_of(name, 32), size, mode)
