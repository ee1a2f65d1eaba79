"""Speed of the models, as ratios measured in turn in one run; needs torch and this tree alone.

    python benchmarks/bench_models.py [--width 128] [--longest 8192] [--device cuda]

1. the MoE layer against a dense MLP of the same active FLOPs (8 experts, top-2): at most 1.3;
2. time per doubling of the sequence, for what should be linear in it: at most 2.3;
3. forward and backward of about 10M parameters against `transformers`' classes with the same
   weights, where it is installed: at least 1 for LLaMA, 2 for Mixtral, Mamba-2 and Jamba;
4. the cost of a LLaMA of 65B parameters, on the meta device: under two seconds.

On a CPU times are the process's own on one thread, so that another process's load stays out of
them, and the allocator keeps its pages, whose return to the system would cost what the arithmetic
does from about 8 MiB a tensor up; each is a median of turns. Mixtral's peer sorts rows by expert as
ours does: both take the time of the same matmuls.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from launch.device import keep_pages
from models import Recipe, cost
from models.branch import Branch, Frame
from models.channels.mlp import Mlp
from models.channels.moe import Moe
from models.context import Context
from models.mixers.attention import Attention
from models.mixers.gated_delta import GatedDelta
from models.mixers.linear_attention import LinearAttention
from models.mixers.mamba import Mamba
from models.mixers.mamba2 import Mamba2
from models.mixers.mamba3 import Mamba3
from models.mixers.mlstm import Mlstm
from models.mixers.rwkv4 import Rwkv4
from models.mixers.rwkv7 import Rwkv7
from models.mixers.s5 import S5

Run = Callable[[], object]
Logits = Callable[[torch.Tensor], torch.Tensor]
N_TOKENS = 2048
PLAIN = {"vocab_size": N_TOKENS, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
HEADS = {"num_attention_heads": 5, "num_key_value_heads": 5}
PEERS: dict[str, tuple[float, dict[str, Any]]] = {
    "llama": (1, {**HEADS, "hidden_size": 320, "num_hidden_layers": 7, "intermediate_size": 856}),
    "mixtral": (
        2,
        {
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 448,
        },
    ),
    "mamba2": (
        2,
        {
            "hidden_size": 256,
            "num_hidden_layers": 16,
            "state_size": 64,
            "num_heads": 8,
            "n_groups": 1,
        },
    ),
    "jamba": (
        2,
        {
            **HEADS,
            "hidden_size": 160,
            "num_hidden_layers": 8,
            "intermediate_size": 320,
            "num_experts": 8,
            "use_mamba_kernels": False,
        },
    ),
}


def main() -> None:
    """Print all four."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--longest", type=int, default=8192)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    torch.set_default_device(given.device)
    frame = Frame(width=given.width, n_layers=2, n_branches=2, layer=1)
    experts(frame)
    doublings(frame, given.longest)
    if importlib.util.find_spec("transformers"):
        peers()
    sizing()


def experts(frame: Frame) -> None:
    """The MoE layer's time over the dense MLP's."""
    print(f"{'tokens':>24} {'MLP ms':>10} {'MoE ms':>10} {'ratio, at most 1.3':>20}")
    hidden = 8 * frame.width // 3 // 8 * 8
    dense, sparse = ready(Mlp(frame, hidden=2 * hidden)), ready(Moe(frame, hidden=hidden))
    for n_tokens in (1024, 4096):
        x = torch.randn(n_tokens // 128, 128, frame.width, requires_grad=True)
        a, b = in_turn([step(dense, x), step(sparse, x)], turns=9)
        print(f"{n_tokens:>24} {1e3 * a:>10.2f} {1e3 * b:>10.2f} {b / a:>20.2f}")


def doublings(frame: Frame, longest: int) -> None:
    """Time at each length over that at half of it."""
    branches = {
        "window 128": Attention(frame, window=128),
        "linear attention": LinearAttention(frame),
        "mamba2": Mamba2(frame, n_states=32),
        "mamba3": Mamba3(frame, n_states=32),
        "mlstm": Mlstm(frame),
        "gated delta": GatedDelta(frame),
        "rwkv7": Rwkv7(frame),
        "rwkv4": Rwkv4(frame),
        "s5": S5(frame),
        "mamba": Mamba(frame, n_states=16),
    }
    lengths = [length for length in (512, 1024, 2048, 4096, 8192) if length <= longest]
    print(f"\n{'ms, × at most 2.3':>24} " + " ".join(f"{n:>14}" for n in lengths))
    for name, branch in branches.items():
        inputs = [torch.randn(1, n, frame.width, requires_grad=True) for n in lengths]
        times = in_turn([step(ready(branch), x) for x in inputs])
        ratios = ["", *(f"×{b / a:.2f}" for a, b in pairwise(times))]
        cells = (f"{1e3 * t:.1f} {r}" for t, r in zip(times, ratios, strict=True))
        print(f"{name:>24} " + " ".join(f"{cell:>14}" for cell in cells))


def peers(length: int = 512) -> None:
    """Ours against theirs, of the same weights."""
    import transformers

    from models.convert import from_hf, hf_class

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    title = f"{length} tokens, parameters"
    print(f"\n{title:>24} {'theirs ms':>10} {'ours ms':>10} {'theirs / ours':>20}")
    for name, (target, options) in PEERS.items():
        config = transformers.AutoConfig.for_model(
            name, **PLAIN, tie_word_embeddings=False, **options
        )
        theirs = getattr(transformers, hf_class(config))(config).train()
        ours = from_hf(theirs).train()
        size = sum(p.numel() for p in ours.parameters()) / 1e6
        tokens = torch.randint(N_TOKENS, (1, length))
        runs = [whole(theirs, logits_of(theirs), tokens), whole(ours, ours, tokens)]
        a, b = in_turn(runs, turns=3)
        ratio = f"{a / b:.2f}, at least {target:g}"
        print(f"{f'{name} {size:.1f}M':>24} {1e3 * a:>10.0f} {1e3 * b:>10.0f} {ratio:>20}")


def sizing() -> None:
    """Building on the meta device and counting."""
    recipe = Recipe.from_dict(
        {"pattern": "attention+mlp", "branches": {"attention": {}, "mlp": {}}, "positions": "rope"}
    )
    start = time.perf_counter()
    total = cost(recipe.at(width=8192, n_layers=80, vocab_size=32000), 4096).params.total
    seconds = time.perf_counter() - start
    print(f"\n{f'cost of {total / 1e9:.0f}B':>24} {seconds:.2f} s, at most 2")


def ready(branch: Branch) -> Branch:
    """A branch with weights that keep a signal's scale."""
    for parameter in branch.parameters():
        nn.init.normal_(parameter, 0.0, parameter.shape[-1] ** -0.5)
    branch.init_special(torch.Generator(next(branch.parameters()).device))
    return branch


def step(branch: Branch, x: torch.Tensor) -> Run:
    """A forward and a backward pass of a branch."""

    def run() -> None:
        result = branch(x, Context())
        y = result[0] if isinstance(result, tuple) else result
        torch.autograd.backward(y, torch.ones_like(y))
        branch.zero_grad(set_to_none=True)
        x.grad = None

    return run


def logits_of(theirs: Any) -> Logits:
    """A model of `transformers` as ours are called."""
    return lambda tokens: theirs(tokens, use_cache=False).logits


def whole(model: nn.Module, logits: Logits, tokens: torch.Tensor) -> Run:
    """A forward and a backward pass of a model with its loss."""

    def run() -> None:
        loss = F.cross_entropy(logits(tokens).flatten(0, 1), tokens.flatten())
        torch.autograd.backward(loss)
        model.zero_grad(set_to_none=True)

    return run


def in_turn(runs: list[Run], turns: int = 5) -> list[float]:
    """The median time of each, measured one after the other so that noise hits all alike."""
    taken: list[list[float]] = [[] for _ in runs]
    for turn in range(turns + 1):
        for run, times in zip(runs, taken, strict=True):
            start = now()
            run()
            if turn:  # the first one warms up
                times.append(now() - start)
    return [median(times) for times in taken]


def now() -> float:
    """Seconds: of the process on a CPU, of the clock with all kernels done on CUDA."""
    if torch.get_default_device().type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
