"""What a checkpoint's folder holds: every file's size and SHA-256, and a digest of that itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

from data.files import file_sha256, sync

MANIFEST = "manifest.json"


class DamagedCheckpointError(ValueError):
    """A file of the checkpoint is missing, short, or has another hash than was written."""


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """With a digest of itself, on the disk when this returns."""
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest | {"seal": _seal(manifest)}, indent=1))
    sync(path)
    sync(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """A checkpoint's manifest; DamagedCheckpointError unless it is as it was written."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        seal = manifest.pop("seal")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read: {error}") from error
    if seal != _seal(manifest):
        raise DamagedCheckpointError(f"{path} is not what was written")
    return manifest


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def verify(folder: Path, identity: str) -> dict[str, Any]:
    """Read every file of a checkpoint against its manifest, and return the manifest."""
    manifest = read_manifest(folder)
    if manifest["identity"] != identity:
        raise DamagedCheckpointError(f"{folder} belongs to a run with another configuration")
    for name, written in manifest["files"].items():
        path = folder / name
        if not path.is_file() or digest(path) != written:
            raise DamagedCheckpointError(f"{path} is not what was written")
    return manifest


def digest(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
