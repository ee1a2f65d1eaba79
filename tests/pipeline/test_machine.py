"""The slots of a study: those of this machine, or of the cluster that this process is in."""

import signal

import pytest

from launch import cluster as ray_cluster
from models import Recipe
from pipeline.cluster_file import load_cluster
from pipeline.config import load_study
from pipeline.errors import StudyError
from pipeline.gpus import gpu
from pipeline.machine import Machine
from pipeline.planner import make_plan
from pipeline.requirements import check_memory
from pipeline.yaml_file import CONFIGS
from tests.pipeline.test_plan import TOKENS

LARGE = (
    Recipe.from_dict({"pattern": "attention+mlp"})
    .at(width=4096, n_layers=32, vocab_size=512)
    .to_dict()
)


def test_a_process_on_no_node_of_a_cluster_is_told_what_to_do(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(StudyError, match="`isoflop submit` sends a study there"):
        Machine(load_study("quickstart"), None, load_cluster("lab"))


def test_more_ranks_than_slots_are_refused():
    study = load_study("quickstart", ["parallel.ranks=2"])
    with pytest.raises(StudyError, match="given 2, allowed: at most the 1 slots of this machine"):
        Machine(study, 1)


def test_a_plan_for_a_cluster_is_held_against_the_memory_that_its_file_declares(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((CONFIGS / "clusters" / "lab.yaml").read_text().replace("a100-80gb", "40GB"))
    study = load_study("quickstart", ["parallel.gpus_per_rank=1"])
    with Machine(study, None, load_cluster(path), planned=True) as machine:
        assert machine.devices() == machine.slots == 32
        assert machine.device_bytes == 40e9
        large = make_plan(study, TOKENS).runs[0].model_copy(update={"model": LARGE})
        with pytest.raises(StudyError, match=r"a rank, 39.2 GB are free; it fits with .*ranks: "):
            check_memory([large], machine.device_bytes)


def test_a_gpu_is_known_by_its_name_or_its_memory():
    assert gpu("H200").memory == 141e9
    assert gpu("96 GB").memory == 96e9
    with pytest.raises(ValueError, match=r"given 'h10', allowed: .*; did you mean 'h100'\?"):
        gpu("h10")


def test_a_signal_that_comes_while_ray_starts_is_answered_as_any_other(monkeypatch):
    """Ray's own answer is an exit whose code says nothing to Slurm."""

    def init(**_: object) -> None:
        raise SystemExit(signal.SIGTERM)

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            ray_cluster._connect()
    finally:
        signal.signal(signal.SIGTERM, before)
