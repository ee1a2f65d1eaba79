"""Tokens a second and MFU of training steps on one accelerator, against `transformers` + PyTorch.

    python benchmarks/bench_accelerator.py [--models dense-125M moe hybrid] [--compile]

Goal on one H200: the dense 1.3B model at 50 % MFU or more in bf16. A step is forward, backward,
clipping and AdamW (fused) over the same batch, in bf16 with fp32 master weights by autocast, on
both sides; MFU is exact training FLOPs over this device's own matmul rate. Where it is installed,
`transformers` runs a model of the same shape. Needs torch, pydantic and this repository, no more;
`--device cpu --models tiny` tries it out.
"""

import argparse
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from launch.device import peak_flops
from models import Model, ModelConfig, Recipe, build, cost
from models.engines.select import available
from models.loss import cross_entropy

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "models"
VOCAB = 50_304


@dataclass(frozen=True)
class Shape:
    recipe: str
    width: int
    n_layers: int
    length: int
    batch: int


SHAPES = {
    "tiny": Shape("llama", 64, 2, 128, 4),
    "dense-125M": Shape("llama", 768, 12, 2048, 16),
    "dense-350M": Shape("llama", 1024, 24, 2048, 16),
    "dense-1.3B": Shape("llama", 2048, 24, 2048, 8),
    "moe": Shape("mixtral", 768, 12, 2048, 8),
    "hybrid": Shape("jamba", 768, 16, 2048, 8),
}


def config_of(shape: Shape) -> ModelConfig:
    recipe = yaml.safe_load((CONFIGS / f"{shape.recipe}.yaml").read_text())
    return Recipe.from_dict(recipe).at(width=shape.width, n_layers=shape.n_layers, vocab_size=VOCAB)


def ours(model: Model, run: Callable[..., Any]) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        out = run(tokens_BT)
        total = cross_entropy(out.logits, targets_BT).total
        for name, weight in model.aux_weights.items():
            total = total + out.aux[name] * weight
        return total

    return loss


def theirs(hf: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        logits = hf(tokens_BT, use_cache=False).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets_BT.flatten())

    return loss


def seconds_a_step(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], shape: Shape, device: torch.device
) -> float:
    """Median of ten steps after three."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch_BT = torch.randint(0, VOCAB, (shape.batch, shape.length + 1), device=device)
    times = []
    for _ in range(13):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            value = loss(batch_BT[:, :-1], batch_BT[:, 1:])
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value.item()  # waits for the device
        times.append(time.perf_counter() - started)
    return statistics.median(times[3:])


def report(name: str, shape: Shape, device: torch.device, compiled: bool, peak: float) -> None:
    config = config_of(shape)
    tokens = shape.batch * shape.length
    flops = cost(config, shape.length).training_flops_per_token * tokens
    torch.manual_seed(0)
    with device:
        model = build(config)
    model.init_weights(0)
    run = torch.compile(model.run) if compiled else model.run
    found = {"isoflop": seconds_a_step(model, ours(model, run), shape, device)}
    if importlib.util.find_spec("transformers"):
        from models.convert import to_hf

        hf = to_hf(model.to("cpu")).train()
        del model, run
        gc.collect()
        hf = hf.to(device)
        found["transformers"] = seconds_a_step(hf, theirs(hf), shape, device)
    for who, seconds in found.items():
        print(
            f"{name:>11} {who:>12}: {tokens / seconds:12,.0f} tokens/s, "
            f"MFU {flops / seconds / peak:6.1%}, ratio {found['isoflop'] / seconds:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else None)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    if given.device is None:
        print("no accelerator here: nothing is measured (--device cpu --models tiny tries it out)")
        return
    torch.set_float32_matmul_precision("high")
    device = torch.device(given.device)
    dtype = "bf16" if device.type == "cuda" else "fp32"
    peak = peak_flops(dtype, device, torch.get_num_threads())
    print(f"peak {peak / 1e12:.1f} TFLOP/s in {dtype}")
    for engine, found in available().items():
        print(f"  {engine}: {found['chosen']}")
    for name in given.models or [name for name in SHAPES if name != "tiny"]:
        report(name, SHAPES[name], device, given.compile, peak)


if __name__ == "__main__":
    main()
