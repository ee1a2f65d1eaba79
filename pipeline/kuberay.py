"""A study as a RayJob of KubeRay: a cluster made for it, and its code as a ConfigMap beside it.

The fields are those of the ray.io/v1 API of KubeRay 1.6; token authentication is its `authOptions`.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pipeline.cluster_file import KubeRayCluster
from pipeline.errors import StudyError
from pipeline.package import Package
from pipeline.submit import Job, State, Submission
from pipeline.yaml_file import dump_yaml

CODE = "/isoflop"
ARCHIVE = "code.zip"
LARGEST = 1_000_000
"""Bytes of an archive: a ConfigMap takes 1 MiB in all."""
STATES: dict[str, State] = {
    "Complete": "finished",
    "Failed": "failed",
    "ValidationFailed": "failed",
    "Running": "running",
    "Suspended": "stopped",
    "Suspending": "stopped",
}
GRACE_SECONDS = 120
IDLE_SECONDS = 600


class KubeRay:
    """A `Scheduler` by kubectl, as whom it is configured."""

    def __init__(self, cluster: KubeRayCluster) -> None:
        self._cluster = cluster

    def all(self) -> list[Job]:
        told = json.loads(
            self._kubectl("get", "rayjobs", "--output=json", "--selector=app=isoflop")
        )
        jobs = [_job(item) for item in told["items"]]
        return sorted((job for job in jobs if job), key=lambda job: job.began or 0.0)

    def start(self, package: Package, submission: Submission) -> bool:
        documents = json.dumps(
            {"apiVersion": "v1", "kind": "List", "items": self.manifest(package, submission)}
        )
        told = self._kubectl("apply", "--filename=-", given=documents)
        return "rayjob.ray.io/" in told and "created" in told

    def stop(self, submission: Submission) -> None:
        patch = json.dumps({"spec": {"suspend": True}})
        self._kubectl("patch", "rayjob", submission.id, "--type=merge", f"--patch={patch}")

    def logs(self, submission: Submission, follow: bool) -> Iterator[str]:
        command = [
            *self._command(),
            "logs",
            f"job/{submission.id}",
            *(["--follow"] if follow else []),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            yield from process.stdout

    def text(self, package: Package, submission: Submission) -> str:
        documents = self.manifest(package, submission)
        return "---\n".join(dump_yaml(document) for document in documents)

    def manifest(self, package: Package, submission: Submission) -> list[dict[str, Any]]:
        """The ConfigMap of the code and the RayJob.

        Raises:
            StudyError: the code is larger than a ConfigMap may be.
        """
        archive = package.zipped()
        if len(archive) > LARGEST:
            raise StudyError(
                f"the code takes {len(archive)} bytes, allowed in a ConfigMap: {LARGEST}"
            )
        labels = {"app": "isoflop", "study": submission.study[:63].rstrip("._-")}
        meta = {
            "name": submission.id,
            "namespace": self._cluster.namespace,
            "labels": labels,
            "annotations": {f"isoflop/{key}": value for key, value in submission.labels().items()},
        }
        code = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta,
            "immutable": True,
            "binaryData": {ARCHIVE: base64.b64encode(archive).decode()},
        }
        job = {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": meta,
            "spec": self._spec(package, submission),
        }
        return [code, job]

    def _spec(self, package: Package, submission: Submission) -> dict[str, Any]:
        runtime = {"working_dir": f"file://{CODE}/{ARCHIVE}", "env_vars": package.environment}
        return {
            "entrypoint": package.command.removeprefix("exec "),
            "submissionMode": "K8sJobMode",
            "jobId": submission.id,
            "metadata": submission.labels(),
            "runtimeEnvYAML": dump_yaml(runtime),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": IDLE_SECONDS,
            "rayClusterSpec": self._cluster_spec(submission),
        }

    def _cluster_spec(self, submission: Submission) -> dict[str, Any]:
        """The head is one of the nodes: the driver needs next to nothing."""
        head = {"rayStartParams": {"dashboard-host": "0.0.0.0"}, "template": self._pod(submission)}
        spec: dict[str, Any] = {"authOptions": {"mode": "token"}, "headGroupSpec": head}
        if others := self._cluster.nodes - 1:
            worker = {
                "groupName": "nodes",
                "replicas": others,
                "minReplicas": others,
                "maxReplicas": others,
                "rayStartParams": {},
                "template": self._pod(submission),
            }
            spec["workerGroupSpecs"] = [worker]
        return spec

    def _pod(self, submission: Submission) -> dict[str, Any]:
        cluster = self._cluster
        gpus = {cluster.gpu_resource: str(cluster.gpus_per_node)} if cluster.gpus_per_node else {}
        amounts = {"cpu": str(cluster.cpus_per_node), "memory": cluster.memory_per_node, **gpus}
        scratch = cluster.scratch or "/scratch"
        volumes: dict[str, tuple[str, dict[str, Any]]] = {
            "shared": (cluster.shared, {"persistentVolumeClaim": {"claimName": cluster.claim}}),
            "code": (CODE, {"configMap": {"name": submission.id}}),
            "shm": ("/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": cluster.shm}}),
            "scratch": (scratch, {"emptyDir": {}}),
        }
        container = {
            "name": "ray",
            "image": cluster.image,
            "resources": {"limits": amounts, "requests": amounts},
            "volumeMounts": [
                {"name": name, "mountPath": path} for name, (path, _) in volumes.items()
            ],
            "envFrom": [{"secretRef": {"name": name}} for name in cluster.secrets],
        }
        account = {"serviceAccountName": cluster.service_account}
        return {
            "spec": {
                "containers": [container],
                "volumes": [{"name": name, **source} for name, (_, source) in volumes.items()],
                "nodeSelector": cluster.node_selector,
                "terminationGracePeriodSeconds": GRACE_SECONDS,
                "automountServiceAccountToken": cluster.service_account is not None,
                **(account if cluster.service_account else {}),
            }
        }

    def _command(self) -> list[str]:
        return ["kubectl", "--namespace", self._cluster.namespace]

    def _kubectl(self, *arguments: str, given: str | None = None) -> str:
        command = [*self._command(), *arguments]
        try:
            done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=120)
        except FileNotFoundError:
            raise StudyError(
                "kubectl is not here; `isoflop submit --dry-run` prints the manifest"
            ) from None
        if done.returncode:
            told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise StudyError(f"kubectl: {told[-1]}")
        return done.stdout


def _job(item: dict[str, Any]) -> Job | None:
    """A job of ``kubectl get``; one of another's making is None."""
    meta, status = item["metadata"], item.get("status", {})
    labels = {
        key.removeprefix("isoflop/"): value for key, value in meta.get("annotations", {}).items()
    }
    if (submission := Submission.of(labels)) is None:
        return None
    state = STATES.get(status.get("jobDeploymentStatus", ""), "waiting")
    began = datetime.fromisoformat(meta["creationTimestamp"]).timestamp()
    return Job(submission, state, status.get("message", ""), began)
