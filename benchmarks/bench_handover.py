"""Seconds from one run's end to the end of the next one's first step in a warm gang.

Goal: 1.5. Also: from `Gang()` to the first step of a cold one.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from study_in_small import SHAPES, dense_run, make_stores

from launch import cluster
from launch.gang import Gang, wait_any
from launch.journal import RunRecord, read_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["0.3M", "2M", "20M"], choices=SHAPES)
    parser.add_argument("--runs", type=int, default=6)
    given = parser.parse_args()
    cluster.local(cpus=2)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_stores(Path(scratch))
        began = time.time()
        config = dense_run("cold", "0.3M", folder, 3, 4, 64)
        gang = Gang(config.parallel)

        def run(name: str, size: str) -> RunRecord:
            config = dense_run("run", size, folder, 3, 4, 64)
            one_step = config.train.model_copy(update={"log_every": 1})
            gang.submit(config.model_copy(update={"train": one_step}), folder / name)
            while not wait_any([gang], 60):
                pass
            return read_run(folder / name)

        last = run("cold", "0.3M")
        print(f" cold: {last.points[0].time - began:.2f} s from nothing to the first step")
        for size in given.sizes:
            seconds = []
            for number in range(given.runs):
                record = run(f"{size}-{number}", size)
                seconds.append(record.points[0].time - last.end.time)
                last = record
            print(
                f"{size:>5}: median {statistics.median(seconds):.2f} s, "
                f"worst {max(seconds):.2f} s over {given.runs} hand-overs"
            )
        gang.close()
    cluster.shutdown()


if __name__ == "__main__":
    main()
