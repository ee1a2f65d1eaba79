"""A cluster as one YAML file: what its nodes have, which folder they share, how a job gets there.

Four kinds: ``local`` (several Ray nodes on this machine), ``ray`` (a running Ray cluster),
``slurm`` and ``kuberay`` (a Ray cluster made for the job). Faults are told as in a study's file.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError

from pipeline.cluster_fields import (
    Folder,
    Gpu,
    Label,
    Line,
    Memory,
    Option,
    Scratch,
    Time,
    Url,
    Word,
    folder,
)
from pipeline.config import Study
from pipeline.errors import ConfigError, nearest
from pipeline.faults import describe
from pipeline.store import Uri
from pipeline.strict import Count, Positive, Strict
from pipeline.yaml_file import find, read_yaml

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Nodes(Strict):
    """What every kind of cluster says of itself.

    ``shared`` is the folder that all nodes see by one name: studies live there. ``scratch`` is each
    node's own, for Ray's session and temporary files. ``python`` is one that has this project's
    requirements: a job brings the project's code, and installs nothing. ``gpu`` names the GPUs or
    their memory, which plans are held against (``pipeline.gpus``).
    """

    nodes: Count
    cpus_per_node: Count
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    gpu: Gpu | None = None
    shared: Folder
    scratch: Folder | None = None
    mlflow: Uri | None = None
    price_per_gpu_hour: Positive | None = None
    python: Word = "python"


class LocalCluster(Nodes):
    """Ray nodes on this machine, which `isoflop cluster up` starts; ``shared`` may be relative."""

    kind: Literal["local"]
    shared: Line = "studies"
    scratch: Scratch | None = None
    python: Word = Field(default_factory=lambda: sys.executable)


class RayCluster(Nodes):
    """A Ray cluster that runs; ``dashboard`` is its URL, ``token_file`` yours alone (mode 0600)."""

    kind: Literal["ray"]
    dashboard: Url
    token_file: Line | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether its dashboard is reached on this machine, by a tunnel perhaps."""
        return urlsplit(self.dashboard).hostname in LOOPBACK


class SlurmCluster(Nodes):
    """``setup`` is shell that every node runs first; ``options`` are further ones of sbatch."""

    kind: Literal["slurm"]
    shared: Annotated[Word, AfterValidator(folder)]  # a directive of sbatch quotes nothing
    scratch: Scratch | None = None
    time: Time
    partition: Word | None = None
    account: Word | None = None
    setup: list[Line] = Field(default_factory=list)
    options: list[Option] = Field(default_factory=list)


class KubeRayCluster(Nodes):
    """``claim`` is the volume claim of ``shared``, ``image`` has Ray and this project's
    requirements; ``secrets`` are those whose keys become environment variables."""

    kind: Literal["kuberay"]
    image: Word
    claim: Label
    namespace: Label = "default"
    memory_per_node: Memory
    shm: Memory = "8Gi"
    gpu_resource: Word = "nvidia.com/gpu"
    node_selector: dict[Word, Word] = Field(default_factory=dict)
    service_account: Label | None = None
    secrets: list[Label] = Field(default_factory=list)


Cluster = LocalCluster | RayCluster | SlurmCluster | KubeRayCluster
KINDS: dict[str, type[Nodes]] = {
    get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in get_args(Cluster)
}


def load_cluster(path: Path | str) -> Cluster:
    """The cluster in the YAML file at ``path`` (or the name of one under ``configs/clusters/``).

    Raises:
        ConfigError: every fault found, each with its place, what was given and what is allowed.
    """
    file = read_yaml(find(str(path), "clusters", Path.cwd(), "cluster"))
    kind = file.values.get("kind")
    if (model := KINDS.get(str(kind))) is None:
        given = "missing" if kind is None else f"given {kind!r}"
        close = nearest(str(kind), KINDS)
        where = file.where(("kind",))
        raise ConfigError([f"{where}: kind: {given}, allowed: {', '.join(KINDS)}{close}"])
    try:
        cluster: Any = model.model_validate(file.values)
    except ValidationError as error:
        raise ConfigError(describe(error, model, file.where)) from None
    if isinstance(cluster, LocalCluster):
        return cluster.model_copy(update={"shared": str(Path(cluster.shared).resolve())})
    found: Cluster = cluster
    return found


def check_shared(cluster: Cluster, file: str) -> None:
    """Raise `ConfigError` if the folder that all nodes share is not one to write to here."""
    folder = Path(cluster.shared)
    if isinstance(cluster, LocalCluster):
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        there = "cannot be written" if folder.is_dir() else "is not there"
        raise ConfigError(
            [
                f"{file}: shared: {folder} {there} on {socket.gethostname()}; allowed: a folder "
                "that every node, and this one, sees by that name and may write"
            ]
        )


def check_fit(study: Study, cluster: Cluster) -> None:
    """Raise `ConfigError` if a run of ``study`` wants more than ``cluster`` has."""
    ranks, per_rank = study.parallel.ranks, study.parallel.gpus_per_rank
    gpus, cpus = cluster.nodes * cluster.gpus_per_node, cluster.nodes * cluster.cpus_per_node
    if ranks * per_rank > gpus:
        raise ConfigError(
            [
                f"parallel: given {ranks} ranks of {per_rank:g} GPUs, allowed: at most the {gpus} "
                f"GPUs of the cluster ({cluster.nodes} nodes of {cluster.gpus_per_node})"
            ]
        )
    if ranks > cpus:
        raise ConfigError(
            [
                f"parallel.ranks: given {ranks}, allowed: at most the {cpus} CPUs of the cluster "
                f"({cluster.nodes} nodes of {cluster.cpus_per_node})"
            ]
        )
