"""How long a whole study takes to reach MLflow: seconds for RUNS runs of POINTS points, on SQLite.

Stops half way and goes on with a fresh tracker, so that the figure includes a resumption; counts
the values in the store afterwards.

    python benchmarks/bench_tracking.py --runs 500 --points 200
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from launch.config import RunConfig
from pipeline.tracking import Tracker

CONFIG = {
    "data": {
        "train": "/tokens/train",
        "heldout": "/tokens/heldout",
        "fingerprint": "f" * 64,
        "sequence_length": 128,
        "batch_size": 8,
    },
    "train": {"steps": 1000, "optimizer": {"learning_rate": 0.01}},
    "cost": {
        "params": {"total": 900, "active": 900, "non_embedding": 500, "compute": 700},
        "training_flops_per_token": 4200.0,
    },
    "model": {"width": 32, "n_layers": 2},
    "labels": {"architecture": "dense", "budget": 1e12, "seed": 0},
}


def write_run(folder: Path, number: int, points: int) -> RunConfig:
    """A finished run, 6 metrics a point."""
    name = f"dense-{number:04d}"
    config = RunConfig.model_validate_json(json.dumps(CONFIG | {"name": name}))
    run = folder / "runs" / name
    run.mkdir(parents=True)
    config.write(run / "config.json")
    lines = [{"kind": "start", "time": 1e9, "attempt": 1}]
    for step in range(1, points + 1):
        values = {"loss": 3 + number / 1e3 + 1 / step, "learning_rate": 0.01, "grad_norm": 1.0}
        values |= {"tokens": step * 1024, "flops": step * 4e6, "mfu": 0.4}
        lines.append({"kind": "step", "time": 1e9 + step, "attempt": 1, "step": step, **values})
    lines.append({"kind": "end", "time": 2e9, "attempt": 1, "step": points, "status": "finished"})
    (run / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--points", type=int, default=200)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        configs = [write_run(folder, number, asked.points) for number in range(asked.runs)]
        ready = Tracker(None, folder, "bench").store
        assert ready
        began, worked = time.perf_counter(), time.process_time()
        for part in (configs[: asked.runs // 2], configs):
            tracker = Tracker(None, folder, "bench")
            for config in part:
                tracker.forward(folder / "runs" / config.name, config)
        seconds, work = time.perf_counter() - began, time.process_time() - worked
        with sqlite3.connect(folder / "mlflow.db") as database:
            (count,) = database.execute("select count(*) from metrics where step > 0").fetchone()
    expected = asked.runs * (asked.points * 7 + 3)
    print(
        f"{asked.runs} runs × {asked.points} points × 6 metrics and log10_flops: {seconds:.1f} s, ",
        end="",
    )
    print(f"of which the processor worked {work:.1f} s, and the disk was waited for")
    print(f"{count} values stored, {expected} expected; {seconds / count * 1e6:.0f} µs each")


if __name__ == "__main__":
    main()
