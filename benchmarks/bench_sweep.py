"""A large study's driver: how busy it keeps the devices, what planning, scheduling and status cost.

Runs of half a GPU to eight, that sleep instead of training, go through the real scheduler, Ray
(with 16 GPUs that it is told of) and journals; `isoflop status` is timed over journals of as many
lines as real ones have. Goals: devices 95 % busy until the last run has started, scheduling under
50 ms a run (processor time of the driver), its memory flat, status under 1 s at 500 and 5,000 runs,
planning 5,000 runs under 10 s.

    python benchmarks/bench_sweep.py [--runs 500] [--seconds 8] [--only plan status sweep]
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from launch import cluster
from launch.config import ParallelConfig
from launch.gang import Gang, wait_any
from launch.journal import FILE, End, Journal, read_run
from pipeline.config import Study, load_study
from pipeline.plan import Plan, Tokens
from pipeline.planner import make_plan
from pipeline.requirements import check_memory
from pipeline.runs import run_folder
from pipeline.sweep import Job, Sweep, unfinished

GPUS = 16
WIDTHS = (0.5, 0.5, 0.5, 1, 1, 1, 2, 2, 4, 8)
TOKENS = Tokens(
    Path("/none/tokenizer.json"),
    Path("/none/train"),
    Path("/none/heldout"),
    "0" * 64,
    unique=10**9,
    vocab_size=512,
)
MANY = [
    "grid.budgets=[1e11,2e11,4e11,8e11,1.6e12,3.2e12,6.4e12]",
    "grid.sizes=8",
    "grid.min_steps=1",
]


class Sleeper:
    """Ranks that sleep for as long as their run's name says; the first keeps its journal."""

    def __init__(self) -> None:
        self.first, self.folder = threading.Lock(), ""

    def meet(self, world: int, is_local: bool) -> tuple[str, int]:
        return "", 0

    def node(self) -> str:
        return ""

    def join(self, place: object, meeting: tuple[str, int], *nodes: str) -> None:
        pass

    def train(self, config_json: bytes, folder: str) -> End:
        began, seconds = time.time(), float(Path(folder).name.rpartition("-")[2])
        with self.first:
            is_first, self.folder = self.folder != folder, folder
        if is_first:
            with Journal(Path(folder) / FILE) as journal:
                journal.begin()
                time.sleep(seconds)
                journal.append({"kind": "end", "step": 1, "status": "finished"}, sync=True)
        else:
            time.sleep(seconds)
        return End(1, time.time(), "finished", "", time.time() - began)


RANK = ray.remote(Sleeper)


class SleepingGang(Gang):
    """A real gang in all but what its ranks do: threads of one process, since starting a process
    for each would keep a small machine's cores busy, and devices of a large one have their own."""

    def _actor(self, rank: int, bundle: dict[str, float]) -> object:
        if rank == 0:
            strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=0)
            options = {"num_cpus": 0, "num_gpus": bundle["GPU"], "scheduling_strategy": strategy}
            threads = 2 * self.parallel.ranks
            self._process = RANK.options(**options, max_concurrency=threads).remote()
        return self._process


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=8.0, help="mean duration of a run")
    parser.add_argument("--only", nargs="+", default=["plan", "status", "sweep"])
    given = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as scratch:
        if "plan" in given.only or "status" in given.only:
            for count in (500, 5000):
                study, plan = planning(Path(scratch), count)
                if "status" in given.only:
                    status(study, plan)
        if "sweep" in given.only:
            sweeping(Path(scratch), given.runs, given.seconds)


def planning(scratch: Path, count: int) -> tuple[Study, Plan]:
    seeds = list(range(max(1, round(count / (3 * 7 * 8)))))
    study = load_study("quickstart", [*MANY, f"grid.seeds={seeds}", f"output={scratch}/{count}"])
    began = time.perf_counter()
    plan = make_plan(study, TOKENS)
    check_memory(plan.runs, 8e9)
    plan.write(study.folder / "plan.json")
    left = unfinished([Job(run, run_folder(study, run), 1.0) for run in plan.runs])
    took = time.perf_counter() - began
    print(f"plan of {len(left)} runs: {took:.1f} s (goal 10 s for 5,000)")
    return study, plan


def status(study: Study, plan: Plan) -> None:
    for run in plan.runs:
        folder = run_folder(study, run)
        folder.mkdir(parents=True)
        with Journal(folder / FILE) as journal:
            journal.begin(world=1)
            common = {"tokens": 10**6, "flops": 1e12, "loss": 3.21987654321}
            for step in range(100):
                journal.append({"kind": "step", "step": step, "mfu": 0.3141, **common})
            journal.append({"kind": "eval", "step": 100, "bits_per_byte": 1.2, **common})
            journal.append({"kind": "end", "step": 100, "status": "finished", "train_seconds": 9})
    command = [str(Path(sys.executable).with_name("isoflop")), "status", "quickstart", *MANY]
    command.append(f"output={study.output}")
    times = []
    for _ in range(3):
        began = time.perf_counter()
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        times.append(time.perf_counter() - began)
    assert f"{len(plan.runs)} finished" in shown, shown
    print(f"status of {len(plan.runs)} runs: {min(times):.2f} s (goal 1 s)")


def sweeping(scratch: Path, count: int, mean: float) -> None:
    jobs = [job(scratch, number, mean) for number in range(count)]
    cluster.local(cpus=4 * GPUS, gpus=GPUS)
    memory: list[tuple[int, int]] = []
    process = psutil.Process()
    last_start = 0.0

    def follow(sweep: Sweep) -> None:
        nonlocal last_start
        memory.append((len(sweep.ended), process.memory_info().rss))
        last_start = last_start if not sweep.queue else time.time()

    sweep = Sweep(lambda: GPUS, 0, SleepingGang, wait_any, on_change=follow)
    began, processor = time.time(), time.process_time()
    sweep.run(jobs)
    spent, wall = time.process_time() - processor, time.time() - began
    cluster.shutdown()
    assert len(sweep.ended) == count, f"{len(sweep.failed)} failed"
    tail = last_start - began
    busy = sum(trained(job, last_start) for job in jobs) / (GPUS * tail)
    area = sum(job.expected * job.width for job in jobs)
    quarter = next(rss for ended, rss in memory if ended >= count / 4)
    print(f"{count} runs on {GPUS} GPUs: {wall:.0f} s, {area / GPUS:.0f} s if always all busy")
    print(f"busy {busy:.1%} for the {tail:.0f} s until the last run started (goal 95%)")
    print(f"scheduling {1000 * spent / count:.1f} ms of processor time a run (goal 50 ms)")
    growth = (memory[-1][1] - quarter) / 2**20
    print(f"driver: {memory[-1][1] / 2**20:.0f} MiB, {growth:+.1f} MiB since a quarter had ended")


def trained(job: Job, until: float) -> float:
    """GPU-seconds of a run before the tail."""
    run = read_run(job.folder)
    assert run.end is not None
    return max(min(run.end.time, until) - run.attempts[-1].time, 0.0) * job.width


def job(scratch: Path, number: int, mean: float) -> Job:
    chosen = random.Random(number)
    width, seconds = WIDTHS[number % len(WIDTHS)], chosen.uniform(0.4, 1.6) * mean
    parallel = ParallelConfig(ranks=max(1, int(width)), gpus_per_rank=min(width, 1.0))
    run = SimpleNamespace(
        name=f"r{number}",
        parallel=parallel,
        train=SimpleNamespace(trunk=None),
        write=lambda path: path.write_text("{}"),
        model_dump_json=lambda: "{}",
    )
    expected = seconds * chosen.uniform(0.8, 1.25)  # no estimate is exact
    return Job(run, scratch / "runs" / f"r{number}-{seconds:.3f}", expected, width)


if __name__ == "__main__":
    main()
