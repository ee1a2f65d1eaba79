"""Claim: one core loads 20 million tokens a second, at 10^9 and at 10^12 tokens alike, and a store
of 10^12 tokens opens in under 50 ms.

    python benchmarks/bench_loader.py [--steps 200]

The stores are sparse files, so that any disk holds them: what is timed is the order, the look-up,
the copy out of the files and the conversion, not the disk. Rates are per second of processor
time.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from data.loader import Loader
from data.megatron import token_type
from data.store import Shard, TokenStore

SHARD_TOKENS = 250_000_000
SEQUENCE_LENGTHS = (128, 2048)
TOKENS_PER_BATCH = 1 << 17
ROUNDS = 5


def sparse_store(folder: Path, n_tokens: int) -> TokenStore:
    """Shards of the size that `data.pieces.shard_bytes` gives large corpora, all zeros."""
    folder.mkdir()
    dtype = token_type(50_000)
    shards = []
    for number in range(-(-n_tokens // SHARD_TOKENS)):
        name, size = f"{number:05d}", SHARD_TOKENS * dtype.itemsize
        for suffix, length in (("bin", size), ("idx", 0)):
            with (folder / f"{name}.{suffix}").open("wb") as file:
                os.truncate(file.fileno(), length)
        shards.append(Shard(name, SHARD_TOKENS, 0, 0, size, "0" * 64, 0, "0" * 64))
    TokenStore.of(folder, tuple(shards), 50_000, 0, dtype).save()
    return TokenStore.open(folder)


def rate(batch: Callable[[int], object], steps: range) -> float:
    started = time.process_time()
    for step in steps:
        batch(step)
    return len(steps) * TOKENS_PER_BATCH / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    print(f"{'tokens':>8} {'T':>5} {'M tokens/s':>11} {'open ms':>8}")
    with tempfile.TemporaryDirectory() as root:
        for n_tokens in (10**9, 10**12):
            store = sparse_store(Path(root) / f"{n_tokens:.0e}", n_tokens)
            opened = []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                TokenStore.open(store.folder)
                opened.append(time.perf_counter() - started)
            for number in range(len(store.shards)):
                store.window(number * SHARD_TOKENS, 1)  # opens the shard
            for length in SEQUENCE_LENGTHS:
                loader = Loader(store, length, TOKENS_PER_BATCH // length, seed=0)
                rates = [
                    rate(loader.batch, range(number * steps, (number + 1) * steps))
                    for number in range(ROUNDS)
                ]
                print(
                    f"{n_tokens:8.0e} {length:5} {statistics.median(rates) / 1e6:11.1f} "
                    f"{statistics.median(opened) * 1e3:8.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
