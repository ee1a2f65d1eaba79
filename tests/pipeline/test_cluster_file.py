"""Cluster files: the examples load, and every fault is told with its place and what is allowed."""

import re

import pytest

from pipeline.cluster_file import KINDS, check_fit, check_shared, load_cluster
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
        (("04:00:00", "soon"), "time: given 'soon', allowed: such as 04:00:00 or 1-12:00:00"),
        (("04:00:00", "04:00"), "time: given '04:00', which Slurm takes for 4 minutes, allowed: at least 10 minutes; an hour is 01:00:00"),
        (("nodes: 2", "nodes: 2\nscratch: /a/long/folder/of/somebody/tmp"), "scratch: given '/a/long/folder/of/somebody/tmp', allowed: at most 24 letters"),
        (("nodes: 2", "nodes: 2\nscratch: tmp"), "scratch: given 'tmp', allowed: an absolute path"),
        (("time: 04:00:00\n", ""), "time: missing; this key is required"),
        (("nodes: 2", "nodes: 2\npartition: 'gpu; rm -rf /'"), "partition: given 'gpu; rm -rf /', allowed: one word of letters"),
        (("nodes: 2", "nodes: 2\noptions: ['--mem=1 --wrap=x']"), "options.0: given '--mem=1 --wrap=x', allowed: one option, such as --mem=0"),
        (("nodes: 2", "nodes: 2\npython: '$(id)'"), "python: given '$(id)'"),
        (("nodes: 2", "nodes: 2\nprice_per_gpu_hour: -1"), "price_per_gpu_hour: given -1"),
        (("nodes: 2", "nodes: 2\nprice_per_gpu_hour: .inf"), "price_per_gpu_hour: given inf"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place(refused, change, told):
    assert told in refused(SLURM.replace(*change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("512Gi", "512GB"), "memory_per_node: given '512GB', allowed: such as 64Gi"),
        (("claim: data", "claim: My_Data"), "claim: given 'My_Data', allowed: 1 to 63 of a-z"),
    ],
)
def test_a_fault_of_kubernetes_is_told_too(refused, change, told):
    kubernetes = (
        "kind: kuberay\nnodes: 1\ncpus_per_node: 4\nshared: /s\n"
        "memory_per_node: 512Gi\nimage: lab/isoflop:1\nclaim: data\n"
    )
    assert told in refused(kubernetes.replace(*change))


@pytest.mark.parametrize("time", ["10", "00:10:00", "30:00", "1-0", "1-00:00", "7-00:00:00"])
def test_a_time_is_one_that_slurm_takes(tmp_path, time):
    path = tmp_path / "cluster.yaml"
    path.write_text(SLURM.replace("04:00:00", f"'{time}'"))
    assert load_cluster(path).time == time


def test_a_shared_folder_that_is_not_here_is_named_with_file_and_key(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text(SLURM.replace("/shared", f"{tmp_path}/mount"))
    cluster = load_cluster(path)
    with pytest.raises(ConfigError, match=rf"lab.yaml: shared: {tmp_path}/mount is not there on"):
        check_shared(cluster, str(path))
    (tmp_path / "mount").mkdir()
    check_shared(cluster, str(path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is not there on"):
        check_shared(cluster.model_copy(update={"shared": f"{tmp_path}/file"}), str(path))


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


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_in_the_guide(kind):
    guide = (CONFIGS.parent / "docs" / "cluster.md").read_text()
    named = set(re.findall(r"`(\w+)`", guide))
    assert set(KINDS[kind].model_fields) - {"kind"} <= named
