"""The manifest against the published fields of KubeRay (`rayjob_schema.json`) and of Kubernetes.

What Kubernetes itself defines (pods, metadata, the ConfigMap) is held against the typed models of
its own client. Neither knows a field that is misspelt.
"""

import base64
import io
import json
import re
import zipfile
from pathlib import Path

import jsonschema
import pytest
from kubernetes.client import V1ConfigMap, V1ObjectMeta, V1PodTemplateSpec
from ruamel.yaml import YAML

from pipeline.cluster_file import load_cluster
from pipeline.config import load_study
from pipeline.errors import StudyError
from pipeline.kuberay import KubeRay
from pipeline.package import Package
from pipeline.submit import Submission, submit

RAY_JOB = json.loads(Path(__file__).with_name("rayjob_schema.json").read_text())
DNS = re.compile(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?")  # KubeRay takes 47 letters for a RayJob
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def manifest(*overrides, **more):
    cluster = load_cluster("kuberay").model_copy(update=more)
    package = Package.of(load_study("quickstart", list(overrides)), cluster)
    submission = Submission(package.study.name, package.fingerprint, 12)
    return KubeRay(cluster), package, submission


def groups_of(job):
    """The head's group and those of the workers."""
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]


@pytest.mark.parametrize(
    "more", [{}, {"nodes": 1, "gpus_per_node": 0, "secrets": [], "service_account": "ray"}]
)
def test_the_manifest_has_the_fields_of_the_api_and_no_others(more):
    kube, package, submission = manifest(**more)
    code, job = kube.manifest(package, submission)
    jsonschema.validate(job, RAY_JOB)
    V1ConfigMap.model_validate(code)
    V1ObjectMeta.model_validate(job["metadata"])
    for group in groups_of(job):
        V1PodTemplateSpec.model_validate(group["template"])
    for document in (code, job):
        assert DNS.fullmatch(document["metadata"]["name"])


@pytest.mark.parametrize("typed", ["entrypont", "submissionmode", "ttlSecondsAfterFinish"])
def test_a_misspelt_field_would_be_found(typed):
    kube, package, submission = manifest()
    job = kube.manifest(package, submission)[1]
    job["spec"][typed] = "x"
    with pytest.raises(jsonschema.ValidationError, match=typed):
        jsonschema.validate(job, RAY_JOB)
    pod = groups_of(job)[0]["template"]
    pod["spec"]["containers"][0]["resource"] = {}
    pod["spec"]["terminationGracePeriodSeconds"] = "120"
    with pytest.raises(ValueError, match=r"2 validation errors .*") as told:
        V1PodTemplateSpec.model_validate(pod)
    assert "containers.0.resource" in str(told.value)


def test_volumes_and_mounts_pair_up_and_the_node_is_what_the_file_says():
    kube, package, submission = manifest()
    job = kube.manifest(package, submission)[1]
    spec = job["spec"]["rayClusterSpec"]
    [workers] = spec["workerGroupSpecs"]
    assert (workers["replicas"], workers["maxReplicas"]) == (2, 2)
    for group in groups_of(job):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        names = [volume["name"] for volume in pod["volumes"]]
        assert sorted(names) == sorted(mount["name"] for mount in container["volumeMounts"])
        amounts = container["resources"]["limits"]
        assert amounts == {"cpu": "32", "memory": "512Gi", "nvidia.com/gpu": "8"}
    assert spec["authOptions"] == {"mode": "token"}


def test_the_code_travels_beside_the_job():
    kube, package, submission = manifest()
    code, job = kube.manifest(package, submission)
    archive = base64.b64decode(code["binaryData"]["code.zip"])
    with zipfile.ZipFile(io.BytesIO(archive)) as found:
        assert {name: found.read(name) for name in found.namelist()} == dict(package.files)
    runtime = YAML(typ="safe").load(job["spec"]["runtimeEnvYAML"])
    assert runtime["working_dir"] == "file:///isoflop/code.zip"
    assert not {"pip", "conda", "uv"} & set(runtime)


def test_too_much_code_for_a_config_map_is_refused():
    import os

    kube, package, submission = manifest()
    package.files["launch/large"] = os.urandom(1_100_000)
    with pytest.raises(StudyError, match="allowed in a ConfigMap"):
        kube.manifest(package, submission)


def test_labels_are_what_kubernetes_takes_for_any_study_name():
    one = "grid={type: ladder, params: [1e5], tokens_per_parameter: [20], trunk: false}"
    for name in ("a", "a" * 64, "a" * 62 + "--", "v1.2_x-"):
        kube, package, submission = manifest(f"name={name}", one)
        for document in kube.manifest(package, submission):
            meta = document["metadata"]
            assert all(LABEL.fullmatch(value) for value in meta["labels"].values())
            assert meta["annotations"]["isoflop/study"] == name


def test_what_is_printed_is_what_is_applied():
    kube, package, submission = manifest()
    printed = list(YAML(typ="safe").load_all(kube.text(package, submission)))
    assert printed == kube.manifest(package, submission)


def test_kubectl_is_asked_once_and_told_apart(tmp_path, monkeypatch):
    """With a stand-in that keeps what is applied and tells it again."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        "#!/bin/bash\n"
        'case "$*" in\n'
        f"*apply*) cat >>{tmp_path}/applied; echo rayjob.ray.io/x created ;;\n"
        f"*get*) cat {tmp_path}/jobs ;;\n"
        "esac\n"
    )
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    kube, package, _ = manifest()
    (tmp_path / "jobs").write_text('{"items": []}')
    job, is_new = submit(package, kube)
    assert is_new
    applied = json.loads((tmp_path / "applied").read_text())["items"][1]
    applied["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    for told, state in [({}, "waiting"), ({"jobDeploymentStatus": "Running"}, "running"),
                        ({"jobDeploymentStatus": "Suspended"}, "stopped"),
                        ({"jobDeploymentStatus": "ValidationFailed"}, "failed")]:  # fmt: skip
        (tmp_path / "jobs").write_text(json.dumps({"items": [applied | {"status": told}]}))
        again, is_new = submit(package, kube)
        assert (again.submission, again.state, is_new) == (job.submission, state, False)
