"""Where the quickstart's learning rate comes from: held-out loss over a grid of rates, by shape.

Trains each architecture of a study at a small and a larger planned shape, at one budget, once per
rate, each on one core; the rate of the least loss should not move with width (`init: mup`).

    python benchmarks/probe_learning_rate.py [STUDY] [--budget 2e11] [--rates 0.005 0.01 0.02 0.04]
"""

import argparse
import multiprocessing
import time

import torch

from data.loader import Loader
from data.prepare import prepare
from data.store import TokenStore
from launch import schedule
from models import ModelConfig, build
from models.loss import cross_entropy
from pipeline.config import load_study
from pipeline.plan import Plan, Tokens
from pipeline.planner import make_plan
from pipeline.runs import run_tokens
from pipeline.tables import short


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("study", nargs="?", default="quickstart")
    parser.add_argument("--budget", type=float, default=2e11)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.005, 0.01, 0.02, 0.04])
    parser.add_argument("--batch", type=int, default=1024, help="tokens per step")
    parser.add_argument("--architecture", nargs="*")
    arguments = parser.parse_args()
    rule = f"rule={{name: constant, learning_rate: 0.01, batch_tokens: {arguments.batch}}}"
    study = load_study(
        arguments.study, [rule, f"grid.budgets=[{arguments.budget:.3e}]", "grid.min_steps=1"]
    )
    tokens = Tokens.of(prepare(study.corpus, study.tokenizer, study.cache, 0))
    plan = make_plan(study, tokens)
    cases = [
        (run, rate)
        for name in arguments.architecture or study.architectures
        for run in _ends(plan, name)
        for rate in arguments.rates
    ]
    print(f"budget {arguments.budget:.3g}, batch {arguments.batch} tokens; held-out nats per token")
    with multiprocessing.get_context("spawn").Pool(processes=2) as pool:
        losses = pool.starmap(train, cases, chunksize=1)
    rates = "".join(f"{rate:>10g}" for rate in arguments.rates)
    print(f"{'run':<34}{'steps':>7}{rates}   seconds")
    width = len(arguments.rates)
    for first in range(0, len(cases), width):
        run, row = cases[first][0], losses[first : first + width]
        seconds = sum(took for _, took in row) / width
        best = min(loss for loss, _ in row)
        cells = "".join(f"{loss:>9.4f}{'*' if loss == best else ' '}" for loss, _ in row)
        tokens = short(run_tokens(run))
        print(f"{run.name:<34}{run.train.steps:>7}{cells}   {seconds:.1f}  ({tokens} tokens)")


def _ends(plan: Plan, architecture: str):
    """The second-smallest and the second-largest planned shapes, on both sides of the optimum."""
    runs = [run for run in plan.runs if run.labels["architecture"] == architecture]
    return [runs[1], runs[-2]] if len(runs) > 3 else [runs[0], runs[-1]]


def train(run, rate: float) -> tuple[float, float]:
    """Held-out loss at the end, and the seconds taken, on one core in plain PyTorch."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    data, settings = run.data, run.train
    loader = Loader(TokenStore.open(data.train), data.sequence_length, data.batch_size, data.seed)
    heldout = Loader.heldout(TokenStore.open(data.heldout), data.sequence_length, 8, 100_000)
    model = build(ModelConfig.from_dict(run.model))
    model.init_weights(settings.seed)
    optimizer = torch.optim.AdamW(
        model.param_groups(rate, settings.optimizer.weight_decay),
        betas=settings.optimizer.betas,
        fused=True,
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(settings.steps):
        factor = schedule.factor(settings.schedule, step, settings.steps)
        for group, peak in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = peak * factor
        loss(model, loader.batch(step)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        losses = [float(loss(model, batch)) for batch in heldout.batches()]
    return sum(losses) / len(losses), time.perf_counter() - begin


def loss(model, batch):
    output = model.run(torch.from_numpy(batch.tokens_BT))
    targets, weights = torch.from_numpy(batch.targets_BT), torch.from_numpy(batch.weights_BT)
    return cross_entropy(output.logits, targets, weights).total


if __name__ == "__main__":
    main()
