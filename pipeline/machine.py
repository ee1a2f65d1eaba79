"""The slots that a study trains on: this machine's, on a Ray of its own, or those of a cluster."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from pathlib import Path

import psutil

from pipeline.cluster_file import Cluster
from pipeline.config import Study
from pipeline.errors import StudyError
from pipeline.gpus import Gpu, gpu

JOIN_SECONDS = 120.0
LOOK_SECONDS = 60.0


class Machine:
    """Slots, and the Ray cluster they are on.

    Without ``cluster`` Ray is this process's own, and started when something first needs it. With
    one, this process runs on one of its nodes: as the job that `isoflop submit` made, say. One that
    is only ``planned`` for is known by its file, and Ray is this machine's.
    """

    def __init__(
        self,
        study: Study,
        slots: int | None,
        cluster: Cluster | None = None,
        say: Callable[[str], None] = print,
        planned: bool = False,
    ):
        self.cluster = cluster
        self._is_up = False
        per_rank = study.parallel.gpus_per_rank
        if cluster and planned:
            cores, gpus = (
                cluster.nodes * n for n in (cluster.cpus_per_node, cluster.gpus_per_node)
            )
        else:
            cores, gpus = self._join(cluster, say) if cluster else _here(per_rank)
        if per_rank and not gpus:
            raise StudyError(
                f"parallel.gpus_per_rank: given {per_rank}, allowed: 0 as there is no GPU"
            )
        self.slots = slots or (int(gpus / per_rank) if per_rank else cores)
        self._cpus, self._gpus = max(self.slots, cores), gpus
        if cluster and planned:
            self._cpus, self._gpus = len(os.sched_getaffinity(0)), 0
        self._kind = "GPU" if per_rank else "CPU"
        is_elastic = cluster and not (slots or planned)
        self._fixed = None if is_elastic else self.slots * (per_rank or 1)
        widest = max(study.parallel.steps, key=lambda step: step.ranks * (step.gpus_per_rank or 1))
        if widest.ranks * (widest.gpus_per_rank or 1) > self.slots * (per_rank or 1):
            place = "cluster" if cluster else "machine"
            raise StudyError(
                f"parallel.ranks: given {widest.ranks}, "
                f"allowed: at most the {self.slots} slots of this {place}"
            )

    def devices(self) -> float:
        """GPUs, or cores for a study without: those of a cluster as its nodes come and go."""
        if self._fixed is not None:
            return self._fixed
        from launch import cluster

        return cluster.resources().get(self._kind, 0.0)

    @property
    def gpu(self) -> Gpu | None:
        """What the cluster's file says of its GPUs."""
        return gpu(self.cluster.gpu) if self.cluster and self.cluster.gpu else None

    @property
    def device_bytes(self) -> float:
        """Memory of a GPU, or a core's share of this machine's; infinite where nothing tells it."""
        if self._kind == "CPU":
            return float(psutil.virtual_memory().total) / len(os.sched_getaffinity(0))
        if self.gpu:
            return self.gpu.memory
        import torch

        here = torch.cuda.is_available()
        return float(torch.cuda.get_device_properties(0).total_memory) if here else math.inf

    def start(self) -> None:
        """Bring Ray up, once."""
        if not self._is_up:
            from launch import cluster

            cluster.local(self._cpus, self._gpus)
            self._is_up = True

    def _join(self, cluster: Cluster, say: Callable[[str], None]) -> tuple[int, int]:
        """CPUs and GPUs of the nodes that are there; others may come later."""
        if "RAY_ADDRESS" not in os.environ:
            raise StudyError(
                "--cluster: this process is on no node of a cluster (RAY_ADDRESS is not set); "
                "`isoflop submit` sends a study there"
            )
        from launch import cluster as ray_cluster

        ray_cluster.connect("auto")
        self._is_up = True
        found = ray_cluster.wait_for_nodes(cluster.nodes, JOIN_SECONDS)
        if found < cluster.nodes:
            say(f"{found} of {cluster.nodes} nodes are here; going on with these")
        if blind := ray_cluster.blind_nodes(Path(cluster.shared), LOOK_SECONDS):
            raise StudyError(
                f"shared (in the file of the cluster): {cluster.shared} is there on "
                f"{socket.gethostname()}, and what is written there is not seen on "
                f"{', '.join(blind)}; every node must have that folder under that name"
            )
        total = ray_cluster.resources()
        return int(total.get("CPU", 0)), int(total.get("GPU", 0))

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_up:
            from launch import cluster

            cluster.shutdown()


def _here(gpus_per_rank: float) -> tuple[int, int]:
    """Cores of this machine, and its GPUs where they are asked for: looking takes torch."""
    cores = len(os.sched_getaffinity(0))
    if not gpus_per_rank:
        return cores, 0
    import torch

    return cores, int(torch.cuda.device_count())
