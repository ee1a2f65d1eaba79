"""Gangs: the ranks of a job as Ray actors that stay warm from one run to the next.

Nothing here waits for Ray but `wait_any`. A gang starts in the background and queues its first run
behind its start. One that failed in any way is closed and never used again: a new one costs
seconds, and a process group with a lost member cannot be mended.
"""

import contextlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util import get_node_ip_address
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from launch.config import ParallelConfig, RunConfig
from launch.journal import DONE, FILE, End, FencedError, Journal, Status
from launch.ranks import Place
from launch.tail import read_tail
from launch.watchdog import START_SECONDS, Pulse, blame, forget
from launch.worker import STOP_FILE, Worker, ask_to_stop

RANK = ray.remote(Worker)
LAST_WORDS = 5
"""Lines that a rank may get in between reading a journal's end and closing it, at the most."""
SOUND: tuple[Status, ...] = (*DONE, "cancelled", "preempted")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
EXCEPTION = re.compile(r"[\w.]+(Error|Exception): ")


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and whether its gang may train the next one."""

    status: Status
    reason: str = ""
    step: int = 0
    is_worker_sound: bool = True


class Gang:
    """`parallel.ranks` processes of `parallel.threads` CPUs, packed or spread over the nodes.

    With the `epoch` of its driver's lease it claims each run, and leaves alone those that a later
    driver has claimed.
    """

    def __init__(self, parallel: ParallelConfig, epoch: int | None = None) -> None:
        self.parallel, self._epoch = parallel, epoch
        threads, gpus = parallel.threads or 1, parallel.gpus_per_rank
        bundle = {"CPU": float(threads)} | ({"GPU": gpus} if gpus else {})
        self._group = placement_group(
            [bundle] * parallel.ranks, strategy=parallel.placement.upper()
        )
        self._placed, self._has_place = self._group.ready(), False
        self._actors = [self._actor(rank, bundle) for rank in range(parallel.ranks)]
        nodes = [actor.node.remote() for actor in self._actors]
        meeting = self._actors[0].meet.remote(*nodes)
        timeout = 2 * max(parallel.step_timeout, START_SECONDS)
        place = Place(world=parallel.ranks, cuda=gpus > 0, threads=threads, timeout=timeout)
        self._joined = [
            actor.join.remote(replace(place, rank=rank), meeting, *nodes)
            for rank, actor in enumerate(self._actors)
        ]
        self._runs: list[Any] = []
        self._going: list[Any] = []
        self._folder: Path | None = None

    def _actor(self, rank: int, bundle: dict[str, float]) -> Any:
        options = {
            "num_cpus": bundle["CPU"],
            "num_gpus": bundle.get("GPU", 0),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=rank
            ),
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(int(bundle["CPU"]))}},
        }
        return RANK.options(**options).remote(get_node_ip_address)

    @property
    def is_placed(self) -> bool:
        """Whether Ray has found its place."""
        self._has_place = self._has_place or bool(ray.wait([self._placed], timeout=0)[0])
        return self._has_place

    def submit(self, config: RunConfig, folder: Path) -> None:
        """Begin the run in `folder`, or go on with it; returns at once.

        Raises `FencedError` if a later driver has claimed the run.
        """
        assert not self._runs, "one run at a time"
        folder.mkdir(parents=True, exist_ok=True)
        if self._epoch is not None:
            with Journal(folder / FILE, self._epoch) as journal:
                journal.claim()
        (folder / STOP_FILE).unlink(missing_ok=True)
        forget(folder)
        config.write(folder / "config.json")
        self._folder = folder
        self._pulse = Pulse(folder, self.parallel.step_timeout)
        text = config.model_dump_json().encode()
        self._runs = [actor.train.remote(text, str(folder)) for actor in self._actors]

    def stop(self, status: Status = "preempted") -> None:
        """Ask the run to save its state and end with this status."""
        assert self._folder, "no run was submitted"
        with contextlib.suppress(FencedError), Journal(self._folder / FILE, self._epoch):
            ask_to_stop(self._folder, status)

    def outcome(self) -> Outcome | None:
        """The run's end, once; None while it goes on."""
        assert self._folder, "no run was submitted"
        done, self._going = ray.wait(self._runs, num_returns=len(self._runs), timeout=0)
        problems = [problem for run in done if (problem := _problem(run))]
        if self._going and self.is_placed and self._pulse.has_stopped():
            problems.append("rank 0 shows no sign of life: its process is stopped or stuck")
        if problems:
            return self._failed(problems)
        if self._going:
            return None
        end: End = ray.get(self._runs[0])
        self._runs = []
        return Outcome(end.status, end.reason, end.step, is_worker_sound=end.status in SOUND)

    def _failed(self, problems: list[str]) -> Outcome:
        """Kill every rank, so that none writes on, and close the journal's attempt.

        A run that was over before its gang was lost stays so: a node may train on, cut off.
        """
        assert self._folder
        self.close()
        now = read_tail(self._folder)
        if now.status in DONE:
            return Outcome(now.status, now.reason, now.step, is_worker_sound=False)
        reason = blame(self._folder, self.parallel.ranks) or problems[0]
        if started := _problem_of_any(self._joined):
            reason = f"the gang did not start: {started}"
        self._end(now.step, reason)
        return Outcome("failed", reason, now.step, is_worker_sound=False)

    def _end(self, step: int, reason: str) -> None:
        """Close the journal's attempt: a rank that is being killed may write one line more, but
        none after this one. A run that a later driver has claimed is left alone."""
        assert self._folder
        end = {"kind": "end", "step": step, "status": "failed", "reason": reason}
        for _ in range(LAST_WORDS):
            with (
                contextlib.suppress(FencedError),
                Journal(self._folder / FILE, self._epoch) as journal,
            ):
                return journal.append(end, sync=True)
            time.sleep(0.1)

    def close(self) -> None:
        """End the processes, whatever they are doing, and free their place."""
        for actor in self._actors:
            ray.kill(actor)
        remove_placement_group(self._group)
        self._runs = []


def _problem(run: Any) -> str | None:
    """What a finished call raised, in one line."""
    try:
        ray.get(run)
    except RayTaskError as error:
        return str(error.cause)
    except RayActorError as error:
        return told(error)
    except RayError as error:
        return f"{type(error).__name__}: {error}"
    return None


def told(error: RayActorError) -> str:
    """In one line: of a process that could not be made the last exception of the cause; of any
    other Ray's summary, which stands first. Without the colours of a terminal."""
    lines = [line.strip() for line in COLOURS.sub("", str(error)).splitlines() if line.strip()]
    if not error.actor_init_failed:
        return f"a rank's process died: {lines[0]}"
    raised = next((line for line in reversed(lines) if EXCEPTION.match(line)), lines[-1])
    return f"a rank's process could not be made: {raised}"


def _problem_of_any(calls: Sequence[Any]) -> str | None:
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
    return next((problem for call in done if (problem := _problem(call))), None)


def wait_any(gangs: Sequence[Gang], timeout: float) -> list[tuple[Gang, Outcome]]:
    """Those whose run has ended, after at most `timeout` seconds."""
    ended = _ended(gangs)
    if not ended and (going := [run for gang in gangs for run in gang._going]):
        ray.wait(going, num_returns=1, timeout=timeout)
        ended = _ended(gangs)
    return ended


def _ended(gangs: Sequence[Gang]) -> list[tuple[Gang, Outcome]]:
    outcomes = ((gang, gang.outcome()) for gang in gangs)
    return [(gang, outcome) for gang, outcome in outcomes if outcome]
