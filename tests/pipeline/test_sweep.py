"""The scheduler, over simulated gangs: everything once, slots never exceeded, failures bounded."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.config import ParallelConfig
from pipeline.sweep import Job, Sweep


@dataclass
class Outcome:
    status: str = "finished"
    reason: str = ""
    is_worker_sound: bool = True


@dataclass
class Machine:
    """Simulated gangs over simulated time; ``outcomes`` gives a run's successive ends."""

    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    clock: float = 0.0
    open: int = 0
    opened: int = 0
    most: int = 0
    order: list[str] = field(default_factory=list)
    running: dict = field(default_factory=dict)
    interrupt_at: float | None = None

    def open_worker(self, shape):
        worker = Gang(self, shape.ranks)
        self.opened += 1
        self.open += shape.ranks
        self.most = max(self.most, self.open)
        return worker

    def wait_any(self, workers, timeout):
        if self.interrupt_at is not None and self.clock >= self.interrupt_at:
            self.interrupt_at = None
            raise KeyboardInterrupt
        stopped = [w for w in workers if w.stopped]
        if stopped:
            return [(w, Outcome("preempted")) for w in stopped]
        first = min(workers, key=lambda w: w.until)
        self.clock = first.until
        return [
            (
                first,
                self.outcomes.get(first.name, []).pop(0)
                if self.outcomes.get(first.name)
                else Outcome(),
            )
        ]


@dataclass
class Gang:
    machine: Machine
    ranks: int
    until: float = 0.0
    name: str = ""
    stopped: bool = False

    def submit(self, config, folder):
        self.name, self.until = config.name, self.machine.clock + config.seconds
        self.machine.order.append(config.name)

    def stop(self):
        self.stopped = True

    def close(self):
        self.machine.open -= self.ranks


def job(name, seconds, ranks=1):
    run = SimpleNamespace(name=name, seconds=seconds, parallel=ParallelConfig(ranks=ranks))
    return Job(run, Path(name), seconds)


def sweep(machine, slots=2, retries=2, **more):
    return Sweep(slots, retries, machine.open_worker, machine.wait_any, **more)


def test_every_job_runs_once_on_warm_workers_within_the_slots():
    machine, jobs = Machine(), [job(f"r{i}", 1 + i % 7) for i in range(40)]
    done = sweep(machine, slots=4)
    done.run(jobs)
    assert sorted(machine.order) == sorted(j.run.name for j in jobs)
    assert len(done.ended) == 40
    assert (machine.most, machine.opened, machine.open) == (4, 4, 0)


def test_the_longest_goes_first_and_the_slots_stay_busy():
    machine, jobs = Machine(), [job(f"r{i}", 1 + i % 9) for i in range(60)]
    sweep(machine, slots=3).run(jobs)
    assert machine.order[:3] == [j.run.name for j in sorted(jobs, key=lambda j: -j.expected)[:3]]
    assert sum(j.expected for j in jobs) / (3 * machine.clock) > 0.97


def test_jobs_of_several_sizes_share_the_slots():
    machine = Machine()
    jobs = [job(f"r{i}", 1 + i % 5, ranks=1 + i % 4) for i in range(30)]
    sweep(machine, slots=4).run(jobs)
    assert len(machine.order) == 30
    assert machine.most <= 4


def test_failures_are_retried_so_often_and_a_broken_worker_is_replaced():
    broken = Outcome("failed", "rank 0 was killed", is_worker_sound=False)
    machine = Machine(
        outcomes={"good": [broken, broken], "bad": [Outcome("failed", "out of memory")] * 9}
    )
    said = []
    done = sweep(machine, slots=1, say=said.append)
    done.run([job("good", 2), job("bad", 1)])
    assert machine.order == ["good"] * 3 + ["bad"] * 3
    assert [j.run.name for j in done.ended] == ["good"]
    assert [j.run.name for j in done.failed] == ["bad"]
    assert machine.opened == 3
    assert any("bad failed after 3 tries: out of memory" in line for line in said)


def test_a_diverged_run_is_recorded_and_not_retried():
    machine = Machine(outcomes={"wild": [Outcome("diverged", "loss is NaN at step 7")]})
    done = sweep(machine)
    done.run([job("wild", 1), job("tame", 1)])
    assert machine.order.count("wild") == 1
    assert len(done.ended) == 2


def test_an_interruption_stops_every_run_and_closes_every_worker():
    machine = Machine(interrupt_at=3.0)
    with pytest.raises(KeyboardInterrupt):
        sweep(machine).run([job(f"r{i}", 2) for i in range(9)])
    assert machine.open == 0
    assert len(machine.order) < 9
