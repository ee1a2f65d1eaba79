"""Claim: two ranks of one thread each train at 0.9 or more of the tokens a second of one rank with
two threads, at ZeRO 1, for a dense and a mixture-of-experts model.

    python benchmarks/bench_ranks.py [--seconds 10] [--rounds 3]

The two layouts take turns on the same model, data and batch; medians of the journal's own clock.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from bench_step import stack
from study_in_small import SHAPES, VOCAB, dense_run, make_stores, run_of

from launch import cluster
from launch.config import RunConfig
from launch.gang import Gang
from models import Recipe

MOE = {
    "pattern": "attention+moe",
    "positions": "rope",
    "branches": {"moe": {"n_experts": 8, "top_k": 2}},
}


def moe_run(size: str, stores: Path, batch: int, length: int) -> RunConfig:
    """The mixture's model of that size's width and depth."""
    width, n_layers = SHAPES[size]
    model = Recipe.from_dict(MOE).at(width=width, n_layers=n_layers, vocab_size=VOCAB)
    return run_of(model, stores, 20, batch, length, name="moe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="2M", choices=SHAPES)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one turn")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cluster.local(cpus=4)  # both gangs stay warm; one works at a time
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_stores(Path(scratch))
        runs = {
            "dense": dense_run("dense", given.size, folder, 20, 16, 256),
            "moe": moe_run(given.size, folder, 16, 256),
        }
        layouts = {
            ranks: runs["dense"].parallel.model_copy(update={"ranks": ranks, "threads": threads})
            for ranks, threads in ((1, 2), (2, 1))
        }
        gangs = {ranks: Gang(parallel) for ranks, parallel in layouts.items()}
        for name, run in runs.items():
            times: dict[int, list[float]] = {1: [], 2: []}
            steps = 20
            for turn in range(given.rounds + 1):
                for ranks, parallel in layouts.items():
                    train = run.train.model_copy(update={"steps": steps})
                    config = run.model_copy(update={"parallel": parallel, "train": train})
                    at = folder / f"{name}-{ranks}-{turn}"
                    times[ranks].append(stack(gangs[ranks], config, at))
                if turn == 0:  # warms up, and says how long a turn must be
                    steps = 10 * (2 + int(given.seconds / times[1].pop() / 10))
                    times[2].clear()
            one, two = (statistics.median(times[ranks]) for ranks in (1, 2))
            rate = run.tokens_per_step
            print(
                f"{name:>5} {given.size}: two ranks {rate / two:8,.0f} tokens/s, one with two "
                f"threads {rate / one:8,.0f}, ratio {one / two:.3f} (goal 0.9)"
            )
        for gang in gangs.values():
            gang.close()
    cluster.shutdown()


if __name__ == "__main__":
    main()
