"""The scheduler, over simulated gangs: everything once, slots never exceeded, failures bounded."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.config import ParallelConfig
from pipeline.errors import StoppedError
from pipeline.job import Job
from pipeline.packing import Queue, makespan
from pipeline.sweep import LOOKAHEAD, SAVE_SECONDS, Sweep


@dataclass
class Outcome:
    status: str = "finished"
    reason: str = ""
    is_worker_sound: bool = True
    step: int = 0


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
    placing: float = 0.0
    most_placing: int = 0
    workers: list = field(default_factory=list)
    saving: dict[str, float] = field(default_factory=dict)

    def open_worker(self, shape):
        worker = Gang(self, shape.ranks, placed_at=self.clock + self.placing)
        self.opened += 1
        self.open += shape.ranks
        self.most_placing = max(self.most_placing, sum(not w.is_placed for w in self.workers) + 1)
        self.workers.append(worker)
        self.most = max(self.most, self.open)
        return worker

    def wait_any(self, workers, timeout):
        if self.interrupt_at is not None and self.clock >= self.interrupt_at:
            self.interrupt_at = None
            raise KeyboardInterrupt
        if any(w.stopped for w in workers):
            saved = [w for w in workers if self.clock >= w.saved_at]
            self.clock += 0 if saved else timeout
            return [(w, self.outcomes.get(w.name, [Outcome("preempted")])[0]) for w in saved]
        first = min(workers, key=lambda w: w.until)
        if timeout < 1 and first.until > self.clock + timeout:
            self.clock += timeout
            return []
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
    saved_at: float = 0.0
    placed_at: float = 0.0

    def submit(self, config, folder):
        self.stopped = False
        self.name, self.until = config.name, self.machine.clock + config.seconds
        self.machine.order.append(config.name)

    @property
    def is_placed(self):
        return self.machine.clock >= self.placed_at

    def stop(self):
        self.stopped = True
        self.saved_at = self.machine.clock + self.machine.saving.get(self.name, 0.0)

    def close(self):
        self.machine.open -= self.ranks


def job(name, seconds, ranks=1, expected=None, **more):
    run = SimpleNamespace(
        name=name,
        seconds=seconds,
        parallel=ParallelConfig(ranks=ranks),
        train=SimpleNamespace(trunk=None),
    )
    return Job(run, Path(name), expected or seconds, width=ranks, **more)


def sweep(machine, slots=2, retries=2, **more):
    clock = lambda: machine.clock  # noqa: E731
    return Sweep(lambda: slots, retries, machine.open_worker, machine.wait_any, clock=clock, **more)


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


@given(st.lists(st.integers(1, 99), unique=True, max_size=9), st.integers(1, 3))
def test_failures_count_anew_wherever_a_run_came_further(steps, retries):
    """A week sees more losses of nodes than one place may see failures."""
    lost = [Outcome("failed", step=step) for step in sorted(steps)]
    machine = Machine(outcomes={"long": lost, "stuck": [Outcome("failed", step=5)] * 9})
    done = sweep(machine, retries=retries)
    done.run([job("long", 1), job("stuck", 1)])
    assert [j.run.name for j in done.ended] == ["long"]
    assert machine.order.count("long") == len(steps) + 1
    assert machine.order.count("stuck") == retries + 1


def test_a_diverged_run_is_recorded_and_not_retried():
    machine = Machine(outcomes={"wild": [Outcome("diverged", "loss is NaN at step 7")]})
    done = sweep(machine)
    done.run([job("wild", 1), job("tame", 1)])
    assert machine.order.count("wild") == 1
    assert len(done.ended) == 2


def test_an_interruption_stops_every_run_and_closes_every_worker():
    machine = Machine(interrupt_at=3.0)
    with pytest.raises(StoppedError) as stopped:
        sweep(machine).run([job(f"r{i}", 2) for i in range(9)])
    assert stopped.value.unsaved == []
    assert machine.open == 0
    assert len(machine.order) < 9


def test_runs_that_do_not_save_within_the_time_are_named():
    machine = Machine(interrupt_at=0.0, saving={"slow": SAVE_SECONDS - 1, "stuck": math.inf})
    machine.outcomes["broken"] = [Outcome("failed", "the disk is full")]
    jobs = [job(name, 500) for name in ("slow", "stuck", "broken", "quick")]
    with pytest.raises(StoppedError) as stopped:
        sweep(machine, slots=4).run(jobs)
    assert sorted(stopped.value.unsaved) == ["broken", "stuck"]
    assert machine.open == 0
    assert SAVE_SECONDS <= machine.clock < 120, "what Slurm gives"


def test_wide_and_narrow_jobs_keep_the_devices_busy_to_the_tail():
    machine = Machine()
    jobs = [job(f"r{i}", 20 + 7 * i % 40, ranks=(1, 1, 1, 2, 4, 8)[i % 6]) for i in range(500)]
    sweep(machine, slots=16).run(jobs)
    area = sum(j.expected * j.width for j in jobs)
    assert area / (16 * machine.clock) > 0.97
    assert machine.most <= 16


def test_workers_are_few_and_go_on_with_runs_of_their_own_width():
    """Opening one takes seconds: all widths one after another would open 30."""
    machine = Machine()
    widths = (1, 1, 1, 1, 2, 2, 4, 8)
    jobs = [job(f"r{i}", 20 + 7 * i % 40, ranks=widths[i % 8]) for i in range(400)]
    sweep(machine, slots=16).run(jobs)
    assert machine.opened < 24
    assert sum(j.expected * j.width for j in jobs) / (16 * machine.clock) > 0.97


def test_widths_that_lag_take_the_devices_that_come():
    machine = Machine()
    wide = [job(f"w{i}", 10, ranks=8) for i in range(20)]
    narrow = [job(f"n{i}", 10) for i in range(200)]
    done = sweep(machine)
    done.capacity = lambda: 16 if machine.clock < 50 else 32
    done.run([*wide, *narrow])
    left = 20 * 8 * 10 + 200 * 10 - 50 * 16
    assert machine.clock == pytest.approx(50 + left / 32, abs=15)


def test_a_job_that_would_outlast_all_others_does_not_wait_for_wider_ones():
    machine = Machine()
    jobs = [job(f"w{i}", 10, ranks=2) for i in range(10)] + [job("long", 60)]
    sweep(machine, slots=4).run(jobs)
    assert "long" in machine.order[:3]
    assert machine.clock == 80  # 110 if it came last


def test_a_wide_job_that_comes_late_is_not_starved_by_narrow_ones():
    failed = Outcome("failed", "a node was lost", is_worker_sound=False)
    machine = Machine(outcomes={"wide": [failed]})
    sweep(machine, slots=4).run([job("wide", 5, ranks=4), *(job(f"n{i}", 9) for i in range(40))])
    assert machine.order[:2] == ["wide", "wide"]


def test_devices_are_kept_for_the_first_and_only_short_jobs_run_meanwhile():
    queue = Queue([job("wide", 5, ranks=4), job("short", 3), job("long", 9)])
    taken = queue.take(now=0, free=2, capacity=4, running=[(4.0, 2)])
    assert taken.run.name == "short"
    assert queue.take(now=0, free=1, capacity=4, running=[(4.0, 2), (3.0, 1)]) is None


def test_fractions_of_a_device_add_up():
    queue = Queue([Job(None, Path("f"), 1.0, width=0.1) for _ in range(30)])
    free, taken = 1.0, 0
    while job := queue.take(0, free, 1.0, []):
        free, taken = free - job.width, taken + 1
    assert taken == 10


def test_a_higher_priority_goes_first():
    machine = Machine()
    jobs = [job("wide", 9, ranks=2), job("urgent", 1, priority=1), job("later", 1)]
    sweep(machine).run(jobs)
    assert machine.order[0] == "urgent"


def test_no_more_than_a_few_gangs_look_for_a_place_at_once():
    machine = Machine(placing=0.5)
    done = sweep(machine, slots=64)
    done.run([job(f"r{i}", 30) for i in range(128)])
    assert machine.most_placing == LOOKAHEAD
    assert len(done.ended) == 128


def test_devices_that_come_are_used_and_those_that_go_are_not():
    machine = Machine()
    capacity = lambda: 2 if machine.clock < 10 else 8 if machine.clock < 20 else 1  # noqa: E731
    busy = []
    done = sweep(machine, on_change=lambda s: busy.append((machine.clock, len(s.busy))))
    done.capacity = capacity
    done.run([job(f"r{i}", 2) for i in range(60)])
    assert len(done.ended) == 60
    assert max(n for t, n in busy if t < 10) == 2
    assert max(n for t, n in busy if t < 20) == 8
    assert {n for t, n in busy if t > 22} <= {0, 1}


def test_an_idle_worker_gives_way_when_devices_go():
    """Or it would hold those that a run, sent elsewhere from a lost node, waits for."""
    machine, fits = Machine(), []
    keep = lambda s: fits.append(not s.idle or s._used() <= s.devices)  # noqa: E731
    done = sweep(machine, on_change=keep)
    done.capacity = lambda: 2 if machine.clock < 4 else 1
    done.run([job("long", 10), job("a", 2), job("b", 3)])
    assert len(done.ended) == 3
    assert all(fits)


def test_a_pause_saves_every_run_and_none_is_lost(monkeypatch):
    machine, said = Machine(), []
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(machine, "clock", machine.clock + 5))
    paused = lambda: 3 <= machine.clock < 30  # noqa: E731
    done = sweep(machine, is_paused=paused, say=said.append)
    done.run([job(f"r{i}", 4) for i in range(6)])
    assert len(done.ended) == 6
    assert said == ["paused: runs save their state and stop", "going on"]
    assert not done.failed


def test_nothing_is_started_that_would_outlast_the_device_hours():
    machine = Machine()
    done = sweep(machine, slots=2, device_seconds=25)
    done.run([job("a", 10), job("b", 10), job("c", 10), job("short", 4)])
    assert sorted(machine.order) == ["a", "b", "short"]
    assert [j.run.name for j in done.queue] == ["c"]
    assert done.spent <= 25


def test_a_run_that_outlasts_its_expectation_is_stopped_at_the_device_hours():
    machine = Machine()
    done = sweep(machine, slots=1, device_seconds=25)
    done.run([job("slow", 10, expected=5), job("slower", 50, expected=5), job("c", 30)])
    assert "c" not in machine.order


def test_branches_start_once_their_checkpoint_is_there_and_are_left_out_if_it_never_will(tmp_path):
    machine, said = Machine(outcomes={"bad": [Outcome("diverged", "NaN")]}), []
    jobs = [job("good", 5), job("bad", 4)]
    for trunk in jobs[:2]:
        trunk.folder = tmp_path / trunk.run.name
        branch = job(f"{trunk.run.name}-branch", 1)
        branch.run.train.trunk = SimpleNamespace(run=trunk.folder, step=7)
        jobs.append(branch)

    def committed(sweep):
        if machine.clock >= 2:
            (tmp_path / "good" / "checkpoints" / "step-7").mkdir(parents=True, exist_ok=True)

    done = sweep(machine, say=said.append, on_change=committed)
    done.run(jobs)
    assert machine.order == ["good", "bad", "good-branch"]
    assert [j.run.name for j in done.left_out] == ["bad-branch"]
    assert any("bad-branch cannot start" in line for line in said)


def test_the_expected_finish_follows_the_pace_of_what_has_ended():
    machine, left = Machine(), []
    done = sweep(machine, slots=2, on_change=lambda s: left.append((machine.clock, s.seconds_left)))
    done.run([job(f"r{i}", 8, expected=4) for i in range(20)])
    assert left[0][1] == pytest.approx(40)
    halfway = next(seconds for clock, seconds in left if clock == 40)
    assert halfway == pytest.approx(machine.clock - 40, rel=0.1)


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.sampled_from([1, 2, 4])), min_size=1, max_size=40),
    st.integers(4, 16),
)
def test_a_makespan_is_never_far_from_what_any_schedule_needs(sizes, devices):
    jobs = [job(str(i), seconds, ranks=ranks) for i, (seconds, ranks) in enumerate(sizes)]
    longest = max(seconds for seconds, _ in sizes)
    bound = max(sum(j.expected * j.width for j in jobs) / devices, longest)
    assert bound * (1 - 1e-9) <= makespan(jobs, devices) <= 2 * bound + longest
