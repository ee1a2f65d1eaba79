"""A large study's driver: how busy it keeps the devices, what planning, scheduling and status cost.

Runs of half a GPU to eight, that sleep instead of training, go through the real scheduler, Ray
(with 16 GPUs that it is told of) and journals; `isoflop status` is timed over journals of as many
lines as real ones have. Goals: devices 95 % busy until the tail (the last run has started),
scheduling under 50 ms a run (processor time of the driver), its memory flat, status under 1 s at
500 and 5,000 runs, planning 5,000 runs under 10 s. It takes about seven minutes.

    python benchmarks/bench_sweep.py [--runs 500] [--seconds 6] [--only plan status sweep]
"""

import argparse
import io
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import psutil
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from rich.console import Console

from launch import cluster
from launch.config import ParallelConfig
from launch.gang import Gang, wait_any
from launch.journal import FILE, End, Journal, RunRecord, read_run
from pipeline.config import Study, load_study
from pipeline.job import Job, unfinished
from pipeline.packing import makespan
from pipeline.plan import Plan, Tokens
from pipeline.planner import make_plan
from pipeline.requirements import check_memory
from pipeline.runs import run_folder
from pipeline.status import show_status
from pipeline.sweep import Sweep

GPUS = 16
TOLD_SECONDS = 10.0
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
        self.turn, self.folder, self.over = threading.Lock(), "", threading.Event()

    def meet(self, *nodes: str) -> tuple[str, int]:
        return "", 0

    def node(self) -> str:
        return ""

    def join(self, place: object, meeting: tuple[str, int], *nodes: str) -> None:
        pass

    def train(self, config_json: bytes, folder: str) -> End:
        began, seconds = time.time(), float(Path(folder).name.rpartition("-")[2])
        with self.turn:
            is_first = self.folder != folder
            if is_first:
                self.folder, self.over = folder, threading.Event()
        if is_first:
            with Journal(Path(folder) / FILE) as journal:
                journal.begin()
                time.sleep(seconds)
                journal.append({"kind": "end", "step": 1, "status": "finished"}, sync=True)
            self.over.set()
        self.over.wait()
        return End(1, time.time(), "finished", "", time.time() - began)


RANK = ray.remote(Sleeper)


class SleepingGang(Gang):
    """A real gang in all but what its ranks do: threads of one process, since starting a process
    for each would keep a small machine's cores busy, and devices of a large one have their own."""

    def __init__(self, parallel: ParallelConfig) -> None:
        super().__init__(parallel)
        self.folders: list[Path] = []
        GANGS.append(self)

    def _actor(self, rank: int, bundle: dict[str, float]) -> object:
        if rank == 0:
            strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=0)
            options = {"num_cpus": 0, "num_gpus": bundle["GPU"], "scheduling_strategy": strategy}
            threads = 2 * self.parallel.ranks
            self._process = RANK.options(**options, max_concurrency=threads).remote()
        return self._process

    def submit(self, config: object, folder: Path) -> None:
        self.folders.append(folder)
        super().submit(config, folder)


GANGS: list[SleepingGang] = []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=6.0, help="mean duration of a run")
    parser.add_argument("--only", nargs="+", default=["plan", "status", "sweep"])
    given = parser.parse_args()
    tell(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as scratch:
        if "plan" in given.only or "status" in given.only:
            for count in (500, 5000):
                study, plan = planning(Path(scratch), count)
                if "status" in given.only:
                    status(study, plan)
        if "sweep" in given.only:
            sweeping(Path(scratch), given.runs, given.seconds)


def tell(line: str) -> None:
    print(line, flush=True)


def planning(scratch: Path, count: int) -> tuple[Study, Plan]:
    seeds = list(range(max(1, round(count / (3 * 7 * 8)))))
    study = load_study("quickstart", [*MANY, f"grid.seeds={seeds}", f"output={scratch}/{count}"])
    began, processor = time.perf_counter(), time.process_time()
    plan = make_plan(study, TOKENS)
    check_memory(plan.runs, 8e9)
    plan.write(study.folder / "plan.json")
    jobs = [Job(run, run_folder(study, run), 60.0) for run in plan.runs]
    assert len(unfinished(jobs)) == len(jobs)
    makespan(jobs, GPUS)
    took, spent = time.perf_counter() - began, time.process_time() - processor
    tell(
        f"plan of {len(jobs)} runs: {took:.1f} s, {spent:.1f} s of processor time "
        "(goal 10 s for 5,000)"
    )
    return study, plan


def status(study: Study, plan: Plan) -> None:
    for run in plan.runs:
        write_journal(run_folder(study, run))
    command = [str(Path(sys.executable).with_name("isoflop")), "status", "quickstart", *MANY]
    command.append(f"output={study.output}")
    whole, inside = [], []
    for _ in range(5):
        began = time.perf_counter()
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        whole.append(time.perf_counter() - began)
        began = time.perf_counter()
        show_status(study, Console(file=io.StringIO()), watch=False)
        inside.append(time.perf_counter() - began)
    assert f"{len(plan.runs)} finished" in shown, shown
    tell(
        f"status of {len(plan.runs)} runs: median {statistics.median(whole):.2f} s with the start "
        f"of Python, {statistics.median(inside):.2f} s without (goal 1 s)"
    )


def write_journal(folder: Path) -> None:
    folder.mkdir(parents=True)
    common = {"tokens": 10**6, "flops": 1e12, "loss": 3.21987654321, "learning_rate": 0.01}
    with Journal(folder / FILE) as journal:
        journal.begin(world=1)
        for step in range(100):
            journal.append({"kind": "step", "step": step, "mfu": 0.3141, **common})
        journal.append({"kind": "eval", "step": 100, "bits_per_byte": 1.2, **common})
        journal.append({"kind": "end", "step": 100, "status": "finished", "train_seconds": 9})


class Followed:
    """What is told of a sweep while it goes on, and what is remembered of it."""

    def __init__(self, count: int) -> None:
        self.count, self.began, self.told = count, time.time(), 0.0
        self.last_start = self.began
        self.memory: dict[int, int] = {}
        self.process = psutil.Process()

    def __call__(self, sweep: Sweep[SleepingGang]) -> None:
        now, ended = time.time(), len(sweep.ended)
        self.memory[100 * ended // self.count] = self.process.memory_info().rss
        if sweep.queue:
            self.last_start = now
        if now - self.told > TOLD_SECONDS:
            self.told = now
            tell(
                f"{now - self.began:4.0f} s: {ended} of {self.count} runs ended, "
                f"{sweep.record()['devices_busy']:g} of {GPUS} GPUs held, {len(GANGS)} gangs "
                f"opened, about {sweep.seconds_left:.0f} s left"
            )

    def rss(self, percent: int) -> float:
        """MiB when so many hundredths of the runs had ended."""
        return next(rss for share, rss in self.memory.items() if share >= percent) / 2**20


def sweeping(scratch: Path, count: int, mean: float) -> None:
    jobs = [job(scratch, number, mean) for number in range(count)]
    cluster.local(cpus=4 * GPUS, gpus=GPUS)
    followed, processor = Followed(count), time.process_time()
    sweep = Sweep(lambda: GPUS, 0, SleepingGang, wait_any, on_change=followed, say=tell)
    sweep.run(jobs)
    spent, wall = time.process_time() - processor, time.time() - followed.began
    cluster.shutdown()
    assert len(sweep.ended) == count, f"{len(sweep.failed)} failed"
    records = {job.folder: read_run(job.folder) for job in jobs}
    tail = followed.last_start - followed.began
    busy = sum(trained(records[job.folder], followed.last_start) * job.width for job in jobs)
    area = sum(job.run.seconds * job.width for job in jobs)
    tell(f"{count} runs on {GPUS} GPUs: {wall:.0f} s, {area / GPUS:.0f} s if always all busy")
    tell(f"busy {busy / (GPUS * tail):.1%} for the {tail:.0f} s until the tail (goal 95%)")
    tell(f"scheduling {1000 * spent / count:.1f} ms of processor time a run (goal 50 ms)")
    gaps = sorted(
        records[after].attempts[-1].time - records[before].end.time
        for gang in GANGS
        for before, after in pairwise(gang.folders)
    )
    tell(
        f"from a run's end to the next one's start in its gang: median "
        f"{1000 * statistics.median(gaps):.0f} ms, 95th percentile "
        f"{1000 * gaps[int(0.95 * len(gaps))]:.0f} ms; {len(GANGS)} gangs opened"
    )
    shares = ", ".join(f"{followed.rss(p):.1f} MiB at {p}%" for p in (10, 50, 100))
    tell(f"driver's memory: {shares} of the runs (goal: flat)")


def trained(run: RunRecord, until: float) -> float:
    """Seconds of a run before the tail."""
    assert run.end is not None
    return max(min(run.end.time, until) - run.attempts[-1].time, 0.0)


def job(scratch: Path, number: int, mean: float) -> Job:
    chosen = random.Random(number)
    width, seconds = WIDTHS[number % len(WIDTHS)], chosen.uniform(0.4, 1.6) * mean
    parallel = ParallelConfig(ranks=max(1, int(width)), gpus_per_rank=min(width, 1.0))
    run = SimpleNamespace(
        name=f"r{number}",
        seconds=seconds,
        parallel=parallel,
        train=SimpleNamespace(trunk=None),
        write=lambda path: path.write_text("{}"),
        model_dump_json=lambda: "{}",
    )
    expected = seconds * chosen.uniform(0.8, 1.25)  # no estimate is exact
    return Job(run, scratch / "runs" / f"r{number}-{seconds:.3f}", expected, width)


if __name__ == "__main__":
    main()
