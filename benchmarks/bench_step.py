"""Tokens a second of one rank through Ray, DeepSpeed, loader and journal, over a bare loop's.

The two take turns on the same model, data and threads, and medians are compared. Goal: 0.95.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import ray
import torch
from study_in_small import SHAPES, dense_run, make_stores

from data.loader import Loader
from data.store import TokenStore
from launch import cluster
from launch.config import RunConfig
from launch.gang import Gang, wait_any
from launch.journal import read_run
from models import ModelConfig, build
from models.loss import cross_entropy


def stack(gang: Gang, config: RunConfig, folder: Path) -> float:
    """Seconds a step, as the journal's own clock has them."""
    gang.submit(config, folder)
    while not (ended := wait_any([gang], 60)):
        pass
    assert ended[0][1].status == "finished", ended[0][1]
    points = read_run(folder).points
    return (points[-1].time - points[0].time) / (points[-1].step - points[0].step)


def bare(config: RunConfig, threads: int) -> float:
    """Seconds a step of the shortest loop that trains the same model in the same way."""
    torch.set_num_threads(threads)
    data, chosen = config.data, config.train.optimizer
    loader = Loader(TokenStore.open(data.train), data.sequence_length, data.batch_size, data.seed)
    model = build(ModelConfig.from_dict(config.model))
    model.init_weights(0)
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(
        model.param_groups(chosen.learning_rate, chosen.weight_decay),
        betas=chosen.betas,
        fused=True,
    )
    first = config.train.log_every
    for step in range(config.train.steps):
        if step == first:
            start = time.perf_counter()
        batch = loader.batch(step)
        loss = cross_entropy(
            model(torch.from_numpy(batch.tokens_BT)),
            torch.from_numpy(batch.targets_BT),
            torch.from_numpy(batch.weights_BT),
        ).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
    return (time.perf_counter() - start) / (config.train.steps - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["0.3M", "2M", "20M"], choices=SHAPES)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    given = parser.parse_args()
    cluster.local(cpus=2 * given.threads)
    once = ray.remote(bare).options(num_cpus=given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_stores(Path(scratch))
        config = dense_run("warm", given.sizes[0], folder, 20, given.batch, given.length)
        parallel = config.parallel.model_copy(update={"threads": given.threads})
        gang = Gang(parallel)
        stack(gang, config, folder / "warm")
        for size in given.sizes:
            probe = dense_run("probe", size, folder, 20, given.batch, given.length)
            steps = 10 * (2 + int(given.seconds / ray.get(once.remote(probe, given.threads)) / 10))
            config = dense_run("run", size, folder, steps, given.batch, given.length)
            turns = [
                (
                    stack(gang, config, folder / f"{size}-{turn}"),
                    ray.get(once.remote(config, given.threads)),
                )
                for turn in range(given.rounds)
            ]
            ours, theirs = (statistics.median(times) for times in zip(*turns, strict=True))
            tokens = config.tokens_per_step
            print(
                f"{size:>5}: {tokens / ours:9,.0f} tokens/s, bare loop {tokens / theirs:9,.0f}, "
                f"ratio {theirs / ours:.3f} ({steps} steps, {given.rounds} rounds)"
            )
        gang.close()
    cluster.shutdown()


if __name__ == "__main__":
    main()
