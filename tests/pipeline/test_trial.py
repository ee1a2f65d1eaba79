"""Trials are of the run itself, on every slot at once, each on a device of its own."""

import os
from collections import Counter
from pathlib import Path

import pytest

from data.errors import DataError
from launch.config import ParallelConfig, RunConfig
from models import Recipe
from pipeline.requirements import check_memory
from pipeline.seat import _needs, attempt
from pipeline.trial import (
    SECONDS,
    EnoughError,
    Stopwatch,
    alone,
    measure,
    measured_peak,
    rounds,
    seats,
)
from pipeline.yaml_file import CONFIGS, read_yaml
from tests.launch.conftest import RECIPES, VOCAB, write_store

GPUS = [str(index) for index in range(8)]


def test_every_gpu_of_the_machine_has_a_process_of_its_own():
    found = seats(ParallelConfig(gpus_per_rank=1.0), 8, 96, GPUS)
    assert [seat.gpu for seat in found] == GPUS
    assert {seat.memory for seat in found} == {1.0}


def test_ranks_that_will_share_a_gpu_share_it_in_the_trial():
    found = seats(ParallelConfig(gpus_per_rank=0.5), 16, 96, GPUS)
    assert Counter(seat.gpu for seat in found) == dict.fromkeys(GPUS, 2)
    assert {seat.memory for seat in found} == {0.5}


def test_no_more_run_at_once_than_there_are_slots():
    assert len(seats(ParallelConfig(gpus_per_rank=1.0), 3, 96, GPUS)) == 3
    assert len(seats(ParallelConfig(threads=1), 64, 4, [])) == 4  # a cluster's others are elsewhere
    assert len(seats(ParallelConfig(threads=2, ranks=2), 4, 4, [])) == 2  # gangs' ranks count
    assert len(seats(ParallelConfig(threads=8), 4, 4, [])) == 1


@pytest.mark.parametrize(("runs", "processes"), [(5, 2), (4, 2), (3, 8), (1, 1)])
def test_no_process_is_idle_while_another_measures(runs, processes):
    names = [str(number) for number in range(runs)]
    tried = rounds(names, processes)
    assert len(tried) % processes == 0
    assert set(tried) == set(names)
    assert len(tried) < runs + processes


class Synthetic:
    """A machine on which a start, a first step, a step and a judged batch take so long."""

    def __init__(self, start: float, first: float, step: float, batch: float) -> None:
        self.now, self.times = 100.0, (start, first, step, batch)

    def run(self, watch: Stopwatch, evaluated: int = 3) -> None:
        start, first, step, batch = self.times
        self.now += start
        for number in range(1000):
            watch(number)
            if number and number % evaluated == 0:
                self.now += batch
                watch(number)
            self.now += step if number else first


@pytest.mark.parametrize("step", [0.003, 0.05, 7.0])
def test_a_stopwatch_tells_start_steps_and_evaluations_apart(step):
    machine = Synthetic(start=2.0, first=step + 30, step=step, batch=step / 4)
    watch = Stopwatch(lambda: machine.now)
    with pytest.raises(EnoughError):
        machine.run(watch)
    found = watch.read()
    assert found.step == pytest.approx(step)
    assert found.evaluation == pytest.approx(step / 4)
    assert found.start == pytest.approx(2 + 30)  # that the first step took longer is told once
    measured = machine.now - 100 - 32 - step
    assert measured <= max(2.3 * step, SECONDS + step)


def test_of_a_run_that_ended_at_once_nothing_is_known():
    watch = Stopwatch()
    watch(0)
    watch(1)
    assert watch.read() is None


def tiny(root: Path, **parallel: object) -> RunConfig:
    """A gang's run of a small model, in bf16 and with activations computed again."""
    stores = {name: write_store(root / name, 3000, seed=1) for name in ("train", "heldout")}
    model = Recipe.from_dict(RECIPES["dense"]).at(width=16, n_layers=2, vocab_size=VOCAB)
    count = {"total": 1000, "active": 1000, "non_embedding": 1000, "compute": 1000}
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "model": model.to_dict(),
            "data": {name: store.folder for name, store in stores.items()}
            | {"fingerprint": "f", "sequence_length": 16, "batch_size": 16},
            "train": {
                "steps": 7,
                "dtype": "bf16",
                "micro_batch_size": 2,
                "activation_checkpointing": True,
                "optimizer": {"learning_rate": 1e-2},
            },
            "parallel": parallel,
            "cost": {"params": count, "training_flops_per_token": 6e3},
        }
    )


def test_a_gangs_run_is_tried_as_one_of_its_ranks_is(tmp_path):
    run = tiny(tmp_path, ranks=2, zero_stage=3, threads=1)
    one = alone(run)
    assert RunConfig.model_validate(one.model_dump()) == one  # it is a run that may be
    assert (one.parallel.ranks, one.parallel.threads) == (1, 1)
    assert (one.rank_micro_batch, one.accumulation) == (run.rank_micro_batch, run.accumulation)
    kept = ("dtype", "activation_checkpointing", "compile", "optimizer", "log_every")
    for name in kept:
        assert getattr(one.train, name) == getattr(run.train, name)
    assert alone(tiny(tmp_path / "other", threads=1)).parallel.zero_stage == 1


def test_what_eight_ranks_share_does_not_fit_on_one(tmp_path):
    """7B parameters in bf16 at ZeRO 3 pass the plan's check of memory, and would fail a trial."""
    recipe = Recipe.from_dict(read_yaml(CONFIGS / "models" / "llama.yaml").values)
    model = recipe.at(width=4096, n_layers=32, vocab_size=32_000)
    run = tiny(tmp_path, ranks=8, zero_stage=3, gpus_per_rank=1.0)
    run = run.model_copy(update={"model": model.to_dict()})
    assert check_memory([run], 80e9) < 80e9
    assert _needs(alone(run)) > 80e9


def test_a_state_that_no_rank_alone_can_hold_is_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.seat._room", lambda: 0.0)
    assert attempt(tiny(tmp_path, ranks=2, zero_stage=3, threads=1)) is None


@pytest.mark.slow
def test_a_run_is_tried_by_the_training_loop_itself(tmp_path):
    run = tiny(tmp_path, ranks=2, zero_stage=3, threads=1)
    run = run.model_copy(update={"train": run.train.model_copy(update={"dtype": "fp32"})})
    log = tmp_path / "log"
    [found] = measure({"run": run}, 2, log).values()
    assert found.is_measured
    assert 0 < found.evaluation < found.step < 60
    assert found.start < 5  # what the first run of a process loads is not counted
    broken = run.model_copy(update={"data": run.data.model_copy(update={"train": tmp_path})})
    with pytest.raises(DataError, match="no token store"):  # as training would
        measure({"run": broken}, 1, log)
    assert measured_peak(run, log) > 1e6


def sit(*_: object) -> None:
    pass


def die(run: RunConfig) -> None:
    os._exit(9)


@pytest.mark.slow
def test_a_process_that_is_ended_for_its_memory_leaves_no_timing(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.seat.take", sit)
    monkeypatch.setattr("pipeline.seat.attempt", die)
    assert measure({"run": tiny(tmp_path, threads=1)}, 1, tmp_path / "log") == {"run": None}
