"""Tokens a second and MFU of this project's training on one accelerator, against `transformers` in
a plain PyTorch loop.

    python benchmarks/bench_accelerator.py [--models dense-125M moe hybrid] [--compile]

Goal on one H200: the dense 1.3B model at 50 % MFU or more in bf16. Our side is `launch.train` as a
study runs it (loader, DeepSpeed, journal, clipping, fused AdamW; bf16 weights with fp32 masters);
theirs the shortest loop over a model of the same shape, in bf16 by autocast. Medians of ten steps
after five; MFU is exact training FLOPs over this device's own matmul rate, on both sides.
`--device cpu --models tiny` tries it out.
"""

import argparse
import gc
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from study_in_small import make_stores, run_of
from torch import nn

from launch.device import peak_flops
from launch.journal import read_run
from launch.ranks import Place, Ranks, open_store
from launch.train import train
from models import ModelConfig, Recipe, build, cost
from models.convert import to_hf
from models.engines.select import available

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "models"
VOCAB = 50_304
WARM, TIMED = 5, 10


@dataclass(frozen=True)
class Shape:
    recipe: str
    width: int
    n_layers: int
    length: int
    batch: int

    @property
    def tokens(self) -> int:
        return self.batch * self.length


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


def ours(shape: Shape, ranks: Ranks, stores: Path, compiled: bool) -> float:
    """Seconds a step, by the journal."""
    dtype = "bf16" if ranks.device.type == "cuda" else "fp32"
    train_settings = {"dtype": dtype, "compile": compiled, "log_every": 1}
    config = run_of(
        config_of(shape), stores, WARM + TIMED, shape.batch, shape.length, **train_settings
    )
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder), ranks)
        points = read_run(Path(folder)).points[WARM:]
    return statistics.median(shape.tokens / (point.tokens_per_second or 0) for point in points)


def theirs(shape: Shape, device: torch.device) -> float:
    """Seconds a step of `transformers`."""
    built = build(config_of(shape))
    built.init_weights(0)
    model = to_hf(built).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch_BT = torch.randint(0, VOCAB, (shape.batch, shape.length + 1), device=device)
    times = []
    for _ in range(WARM + TIMED):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(batch_BT[:, :-1], use_cache=False).logits
            loss = nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), batch_BT[:, 1:].flatten()
            )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for the device
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARM:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else None)
    parser.add_argument("--compile", action="store_true", help="our side with train.compile")
    given = parser.parse_args()
    if given.device is None:
        print("no accelerator here: nothing is measured (--device cpu --models tiny tries it out)")
        return
    torch.set_float32_matmul_precision("high")
    is_cuda = given.device == "cuda"
    store, port = open_store("127.0.0.1", 1)
    ranks = Ranks(Place(port=port, cuda=is_cuda, threads=torch.get_num_threads()), store)
    peak = peak_flops("bf16" if is_cuda else "fp32", ranks.device, torch.get_num_threads())
    print(f"peak {peak / 1e12:.2f} TFLOP/s")
    for engine, found in available().items():
        print(f"  {engine}: {found['chosen']}")
    with tempfile.TemporaryDirectory() as scratch:
        stores = make_stores(Path(scratch), vocab_size=VOCAB)
        for name in given.models or [name for name in SHAPES if name != "tiny"]:
            shape = SHAPES[name]
            flops = cost(config_of(shape), shape.length).training_flops_per_token * shape.tokens
            seconds = {"isoflop": ours(shape, ranks, stores, given.compile)}
            _free(is_cuda)
            seconds["transformers"] = theirs(shape, ranks.device)
            _free(is_cuda)
            for who, taken in seconds.items():
                print(
                    f"{name:>11} {who:>12}: {shape.tokens / taken:12,.0f} tokens/s, "
                    f"MFU {flops / taken / peak:6.1%}, ratio {seconds['transformers'] / taken:.2f}"
                )


def _free(is_cuda: bool) -> None:
    gc.collect()
    if is_cuda:
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
