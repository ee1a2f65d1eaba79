"""Claims: a checkpoint of a 50M-parameter run blocks training for under 0.2 s and for under a tenth
of the time that saving takes; a warm worker goes from the order to resume to the next step in under
3 s, the checkpoint's verification included.

    python benchmarks/bench_checkpoint.py [--size 50M] [--rounds 3]

The journal's own clock is read: `blocked` and `seconds` of its checkpoint lines (the first one of a
process, which allocates the memory that later ones are copied into, stands alone), and the time
from `submit` to the first step's line of a resumed attempt, less that of one step.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from study_in_small import SHAPES, dense_run, make_stores

from launch import cluster
from launch.config import RunConfig
from launch.gang import Gang, wait_any
from launch.journal import RunRecord, read_run
from launch.manifest import read_manifest, write_manifest

APART = 16
"""Steps between checkpoints: longer than one takes to be written."""


def trained(gang: Gang, config: RunConfig, folder: Path) -> RunRecord:
    gang.submit(config, folder)
    while not (ended := wait_any([gang], 60)):
        pass
    assert ended[0][1].status == "finished", ended[0][1]
    return read_run(folder)


def with_steps(config: RunConfig, steps: int, every: int = 2) -> RunConfig:
    """The schedule is constant, so that a longer run goes on from a shorter one's checkpoint."""
    train = config.train.model_copy(update={"steps": steps, "checkpoint_every": every})
    return config.model_copy(update={"train": train})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="50M", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cluster.local(cpus=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_stores(Path(scratch))
        base = dense_run("checkpoints", given.size, folder, 2, 2, 64)
        schedule = base.train.schedule.model_copy(update={"name": "constant", "warmup_steps": 0})
        settings = {"schedule": schedule, "log_every": 1}
        base = base.model_copy(update={"train": base.train.model_copy(update=settings)})
        gang = Gang(base.parallel)
        resumed = []
        steps = APART * (given.rounds + 2)
        saves = trained(gang, with_steps(base, steps, APART), folder / "run").checkpoints
        first, *later = saves[:-1]  # the last one ends the run: nothing is left to train meanwhile
        for turn in range(given.rounds):
            run = folder / f"run-{turn}"
            trained(gang, with_steps(base, 2), run)
            config = with_steps(base, 4)
            # The same trajectory to its checkpoint: only the length differs.
            saved = run / "checkpoints" / "step-2"
            write_manifest(saved, read_manifest(saved) | {"identity": config.trajectory()})
            began = time.time()
            points = trained(gang, config, run).points
            resumed.append(points[2].time - began - (points[3].time - points[2].time))
        gang.close()
    cluster.shutdown()
    blocked = statistics.median(saved.blocked or 0 for saved in later)
    saving = statistics.median(saved.seconds for saved in later)
    print(f"{given.size}: {later[0].bytes / 1e6:,.0f} MB a checkpoint, saved in {saving:.2f} s")
    print(f"training blocked for {blocked:.3f} s ({blocked / saving:.1%}), goal 0.2 s and 10 %")
    print(f"the first checkpoint of a process blocks for {first.blocked:.3f} s")
    print(f"resumed to the next step in {statistics.median(resumed):.2f} s, goal 3 s")


if __name__ == "__main__":
    main()
