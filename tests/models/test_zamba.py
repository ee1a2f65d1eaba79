"""The block that Zamba's hybrid layers share."""

from __future__ import annotations

from typing import Any

from models import Recipe, build, cost


def test_layers_share_one_block_and_each_use_costs(zoo: Any) -> None:
    recipe = Recipe.from_dict(zoo.recipe_dict("zamba"))
    one, two = (recipe.at(width=32, n_layers=n, vocab_size=zoo.vocab) for n in (6, 12))
    model = build(two)
    hybrids: list[Any] = [use.branch for use in model.uses() if hasattr(use.branch, "block")]
    assert len(hybrids) == 2
    assert hybrids[0].block[0] is hybrids[1].block[0]
    block = sum(p.numel() for p in hybrids[0].block[0].parameters())
    costs = [cost(config, 16) for config in (one, two)]
    once, twice = (c.params.trunk - 32 for c in costs)  # the last norm
    assert twice == 2 * once - block
    matmul = [c.flops_per_token.matmul - 2 * 32 * zoo.vocab for c in costs]
    assert matmul[1] == 2 * matmul[0]
