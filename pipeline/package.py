"""What a job brings to a cluster: this project's code, and a study with nothing left to look up."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.files import sha256
from pipeline.cluster_file import Cluster
from pipeline.config import Study
from pipeline.kept import STUDY
from pipeline.yaml_file import dump_yaml

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("analysis", "configs", "data", "launch", "models", "pipeline")
CLUSTER = "cluster.yaml"
PATHS = ("path", "root")


@dataclass(frozen=True)
class Package:
    """The files of a job, by their path in its working directory."""

    study: Study
    cluster: Cluster
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, study: Study, cluster: Cluster) -> Package:
        """``study`` with its folder in the shared one; files that it names here, by full path."""
        study = moved(study, cluster)
        return cls(study, cluster, _code() | _settings(study, cluster))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every file's name and bytes."""
        return sha256(*(part for item in sorted(self.files.items()) for part in item))

    @property
    def command(self) -> str:
        """What the job runs in its working directory."""
        return f"exec {self.cluster.python} -m pipeline run {STUDY} --cluster {CLUSTER}"

    @property
    def environment(self) -> dict[str, str]:
        """What the job's processes find in their environment."""
        return {"TMPDIR": self.cluster.scratch} if self.cluster.scratch else {}

    def write(self, folder: Path) -> None:
        """Lay the files out in ``folder``."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def zipped(self) -> bytes:
        """One archive, the same bytes for the same files."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, content in sorted(self.files.items()):
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)
        return buffer.getvalue()


def moved(study: Study, cluster: Cluster) -> Study:
    """``study`` with its folder in the one that the cluster's nodes share."""
    where = {"output": cluster.shared, "mlflow": study.mlflow or cluster.mlflow}
    return study.model_copy(update=where)


def _code() -> dict[str, bytes]:
    found = (path for part in PARTS for path in (ROOT / part).rglob("*") if path.is_file())
    return {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in found
        if "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def _settings(study: Study, cluster: Cluster) -> dict[str, bytes]:
    resolved = _full_paths(study.model_dump(mode="json"))
    described = cluster.model_dump(mode="json", exclude_none=True)
    return {STUDY: dump_yaml(resolved).encode(), CLUSTER: dump_yaml(described).encode()}


def _full_paths(node: Any) -> Any:
    """The values of a study with each relative path that exists here made absolute."""
    if isinstance(node, dict):
        return {
            key: str(Path(value).resolve())
            if key in PATHS and isinstance(value, str) and Path(value).exists()
            else _full_paths(value)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_full_paths(value) for value in node]
    return node
