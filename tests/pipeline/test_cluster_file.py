"""Cluster files: the examples load, and every fault is told with its place and what is allowed."""

import re

import pytest

from pipeline.cluster_file import KINDS, check_fit, load_cluster
from pipeline.config import load_study
from pipeline.errors import ConfigError
from pipeline.yaml_file import CONFIGS

SLURM = """\
kind: slurm
nodes: 2
cpus_per_node: 8
shared: /shared
time: 04:00:00
"""


@pytest.fixture
def refused(tmp_path):
    def faults(text: str) -> str:
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as error:
            load_cluster(path)
        return str(error.value)

    return faults


def test_the_examples_are_of_every_kind():
    kinds = {load_cluster(path).kind for path in (CONFIGS / "clusters").glob("*.yaml")}
    assert kinds == set(KINDS)


def test_the_files_of_the_guide_load(tmp_path):
    page = (CONFIGS.parent / "docs" / "cluster.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "cluster.yaml"
    kinds = set()
    for block in blocks:
        path.write_text(block)
        kinds.add(load_cluster(path).kind)
    assert kinds == {"ray", "slurm", "kuberay"}


def test_a_name_is_looked_up_and_a_wrong_one_is_told_the_nearest():
    assert load_cluster("lab").kind == "ray"
    with pytest.raises(ConfigError, match="did you mean 'kuberay'"):
        load_cluster("kubray")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("kind: slurm", "kind: slrum"), ":1:1: kind: given 'slrum', allowed: local, ray, slurm, kuberay; did you mean 'slurm'?"),
        (("kind: slurm\n", ""), "kind: missing, allowed:"),
        (("nodes: 2", "node: 2"), ":2:1: node: unknown key"),
        (("nodes: 2", "node: 2"), "did you mean 'nodes'?"),
        (("nodes: 2", "nodes: 0"), ":2:1: nodes: given 0"),
        (("nodes: 2", "nodes: true"), "nodes: given True"),
        (("nodes: 2", "nodes: 2\nnodes: 3"), "key given twice"),
        (("/shared", "shared"), ":4:1: shared: given 'shared', allowed: an absolute path without '..'"),
        (("/shared", "/shared/../etc"), "allowed: an absolute path without '..'"),
        (("/shared", '"/shared\\nrm"'), "shared: given '/shared\\nrm'"),
        (("/shared", "/a folder"), "shared: given '/a folder'"),
        (("04:00:00", "soon"), "time: given 'soon'"),
        (("time: 04:00:00\n", ""), "time: missing; this key is required"),
        (("nodes: 2", "nodes: 2\npartition: 'gpu; rm -rf /'"), "partition: given 'gpu; rm -rf /'"),
        (("nodes: 2", "nodes: 2\noptions: ['--mem=1 --wrap=x']"), "options.0: given '--mem=1 --wrap=x'"),
        (("nodes: 2", "nodes: 2\npython: '$(id)'"), "python: given '$(id)'"),
        (("nodes: 2", "nodes: 2\nprice_per_gpu_hour: -1"), "price_per_gpu_hour: given -1"),
        (("nodes: 2", "nodes: 2\nprice_per_gpu_hour: .inf"), "price_per_gpu_hour: given inf"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place(refused, change, told):
    assert told in refused(SLURM.replace(*change))


def test_a_password_in_a_uri_is_refused_and_not_repeated(refused):
    shown = refused(SLURM + "mlflow: postgresql://me:hunter2@db/mlflow\n")
    assert "PGPASSWORD" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize("url", ["lab:8265", "ftp://lab", "http://", "http://me:secret@lab:8265"])
def test_a_dashboard_is_a_url(refused, url):
    shown = refused(f"kind: ray\nnodes: 1\ncpus_per_node: 1\nshared: /s\ndashboard: {url}\n")
    assert "dashboard: " in shown


def test_a_study_that_wants_more_than_the_cluster_has_is_refused(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SLURM + "gpus_per_node: 4\n")
    cluster = load_cluster(path)

    def study(ranks: int, gpus_per_rank: float):
        wanted = [f"parallel.ranks={ranks}", f"parallel.gpus_per_rank={gpus_per_rank}"]
        return load_study("quickstart", [*wanted, "parallel.expert_parallel=1"])

    check_fit(study(8, 1.0), cluster)
    check_fit(study(16, 0.0), cluster)
    for ranks, gpus in ((16, 1.0), (32, 0.0)):
        with pytest.raises(ConfigError, match="allowed: at most the"):
            check_fit(study(ranks, gpus), cluster)
