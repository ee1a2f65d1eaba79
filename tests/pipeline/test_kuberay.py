"""The manifest against the fields of the ray.io/v1 API, written down from its published types.

github.com/ray-project/kuberay, ray-operator/apis/ray/v1: rayjob_types.go, raycluster_types.go; and
`authOptions` of docs.ray.io's API reference of KubeRay 1.6. Pods have the fields of core/v1 in use.
"""

import base64
import io
import json
import re
import zipfile

import jsonschema
import pytest
from ruamel.yaml import YAML

from pipeline.cluster_file import load_cluster
from pipeline.config import load_study
from pipeline.errors import StudyError
from pipeline.kuberay import KubeRay
from pipeline.package import Package
from pipeline.submit import Submission, submit

TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
ANY = {"type": "object"}


def fields(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def listing(item):
    return {"type": "array", "items": item}


VOLUME = fields(
    ["name"],
    name=TEXT,
    configMap=fields(["name"], name=TEXT),
    persistentVolumeClaim=fields(["claimName"], claimName=TEXT),
    emptyDir=fields(medium={"enum": ["", "Memory"]}, sizeLimit=TEXT),
)
CONTAINER = fields(
    ["name", "image"],
    name=TEXT,
    image=TEXT,
    resources=fields(limits=TEXTS, requests=TEXTS),
    volumeMounts=listing(fields(["name", "mountPath"], name=TEXT, mountPath=TEXT)),
    envFrom=listing(fields(secretRef=fields(["name"], name=TEXT))),
)
POD = fields(
    ["spec"],
    metadata=ANY,
    spec=fields(
        ["containers"],
        containers={"type": "array", "items": CONTAINER, "minItems": 1},
        volumes=listing(VOLUME),
        nodeSelector=TEXTS,
        serviceAccountName=TEXT,
        automountServiceAccountToken=FLAG,
        terminationGracePeriodSeconds=WHOLE,
    ),
)
CLUSTER = fields(
    ["headGroupSpec"],
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=ANY,
    headServiceAnnotations=TEXTS,
    suspend=FLAG,
    authOptions=fields(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    headGroupSpec=fields(
        ["rayStartParams", "template"],
        serviceType=TEXT,
        headService=ANY,
        enableIngress=FLAG,
        rayStartParams=TEXTS,
        template=POD,
    ),
    workerGroupSpecs=listing(
        fields(
            ["groupName", "rayStartParams", "template", "minReplicas", "maxReplicas"],
            groupName=TEXT,
            replicas=WHOLE,
            minReplicas=WHOLE,
            maxReplicas=WHOLE,
            numOfHosts=WHOLE,
            rayStartParams=TEXTS,
            template=POD,
            scaleStrategy=ANY,
        )
    ),
)
RAY_JOB = fields(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=ANY,
    spec=fields(
        activeDeadlineSeconds=WHOLE,
        backoffLimit=WHOLE,
        rayClusterSpec=CLUSTER,
        submitterPodTemplate=POD,
        metadata=TEXTS,
        clusterSelector=TEXTS,
        submitterConfig=ANY,
        managedBy=TEXT,
        deletionStrategy=ANY,
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        jobId=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        entrypointResources=TEXT,
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        ttlSecondsAfterFinished=WHOLE,
        shutdownAfterJobFinishes=FLAG,
        suspend=FLAG,
    ),
)
METADATA = fields(["name", "namespace"], name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
DNS = re.compile(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?")  # KubeRay takes 47 letters for a RayJob
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def manifest(*overrides, **more):
    cluster = load_cluster("kuberay").model_copy(update=more)
    package = Package.of(load_study("quickstart", list(overrides)), cluster)
    submission = Submission(package.study.name, package.fingerprint, 12)
    return KubeRay(cluster), package, submission


@pytest.mark.parametrize(
    "more", [{}, {"nodes": 1, "gpus_per_node": 0, "secrets": [], "service_account": "ray"}]
)
def test_the_manifest_has_the_fields_of_the_api_and_no_others(more):
    kube, package, submission = manifest(**more)
    code, job = kube.manifest(package, submission)
    jsonschema.validate(job, RAY_JOB)
    for document in (code, job):
        jsonschema.validate(document["metadata"], METADATA)
        assert DNS.fullmatch(document["metadata"]["name"])
    jsonschema.validate(code["binaryData"], TEXTS)


def test_volumes_and_mounts_pair_up_and_the_node_is_what_the_file_says():
    kube, package, submission = manifest()
    spec = kube.manifest(package, submission)[1]["spec"]["rayClusterSpec"]
    [workers] = spec["workerGroupSpecs"]
    assert (workers["replicas"], workers["maxReplicas"]) == (2, 2)
    for group in (spec["headGroupSpec"], workers):
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
    for name in ("a", "a" * 64, "a" * 62 + "--", "v1.2_x-"):
        kube, package, submission = manifest(f"name={name}")
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
                        ({"jobDeploymentStatus": "Suspended"}, "stopped")]:  # fmt: skip
        (tmp_path / "jobs").write_text(json.dumps({"items": [applied | {"status": told}]}))
        again, is_new = submit(package, kube)
        assert (again.submission, again.state, is_new) == (job.submission, state, False)
