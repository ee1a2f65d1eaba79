"""Speed of the branches, as ratios measured in turn in one run; imports torch and `models` only.

    python benchmarks/bench_models.py [--width 256] [--device cuda]

1. the MoE layer against a dense MLP of the same active FLOPs (8 experts, top-2);
2. time per doubling of the sequence, for what should be linear in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from models.branch import Branch, Frame
from models.channels.mlp import Mlp
from models.channels.moe import Moe
from models.context import Context
from models.mixers.attention import Attention
from models.mixers.gated_delta import GatedDelta
from models.mixers.linear_attention import LinearAttention
from models.mixers.mamba import Mamba
from models.mixers.mamba2 import Mamba2


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--longest", type=int, default=4096)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_default_device(given.device)
    frame = Frame(width=given.width, n_layers=1, n_branches=1)
    experts(frame)
    doublings(frame, given.longest)


def experts(frame: Frame) -> None:
    """The MoE layer's time over the dense MLP's, in turn."""
    print(f"{'tokens':>8} {'MLP ms':>8} {'MoE ms':>8} {'ratio':>6}")
    hidden = 8 * frame.width // 3 // 8 * 8
    dense, sparse = ready(Mlp(frame, hidden=2 * hidden)), ready(Moe(frame, hidden=hidden))
    for n_tokens in (1024, 4096):
        x = torch.randn(n_tokens // 128, 128, frame.width, requires_grad=True)
        a, b = in_turn([step(dense, x), step(sparse, x)])
        print(f"{n_tokens:>8} {1e3 * a:>8.2f} {1e3 * b:>8.2f} {b / a:>6.2f}")


def doublings(frame: Frame, longest: int) -> None:
    """Time at each length over that at half of it."""
    branches = {
        "window 128": Attention(frame, window=128),
        "mamba2": Mamba2(frame, n_states=32),
        "mamba": Mamba(frame, n_states=16),
        "linear attention": LinearAttention(frame),
        "gated delta": GatedDelta(frame),
    }
    lengths = [length for length in (512, 1024, 2048, 4096, 8192) if length <= longest]
    print(f"{'forward and backward, ms':>24} " + " ".join(f"{n:>14}" for n in lengths))
    for name, branch in branches.items():
        inputs = [torch.randn(1, n, frame.width, requires_grad=True) for n in lengths]
        times = in_turn([step(ready(branch), x) for x in inputs])
        ratios = ["", *(f"×{b / a:.2f}" for a, b in pairwise(times))]
        cells = (f"{1e3 * t:.1f} {r}" for t, r in zip(times, ratios, strict=True))
        print(f"{name:>24} " + " ".join(f"{cell:>14}" for cell in cells))


def ready(branch: Branch) -> Branch:
    """A branch with weights that keep a signal's scale."""
    for parameter in branch.parameters():
        nn.init.normal_(parameter, 0.0, parameter.shape[-1] ** -0.5)
    branch.init_special(torch.Generator(next(branch.parameters()).device))
    return branch


def step(branch: Branch, x: torch.Tensor) -> Callable[[], None]:
    """A forward and a backward pass."""

    def run() -> None:
        result = branch(x, Context())
        y = result[0] if isinstance(result, tuple) else result
        y.backward(torch.ones_like(y))
        branch.zero_grad(set_to_none=True)
        x.grad = None

    return run


def in_turn(runs: list[Callable[[], None]], repeats: int = 7) -> list[float]:
    """The best time of each, measured one after the other so that a busy machine hits all alike."""
    best = [float("inf")] * len(runs)
    for _ in range(repeats + 1):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
