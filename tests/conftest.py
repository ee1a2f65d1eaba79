"""One Ray for the whole session."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray of this session's own with eight CPUs, however many there are. Tests using it are
    marked `cluster`."""
    from launch import cluster

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        cluster.local(cpus=8, temp_dir=Path(folder))
        yield
        cluster.shutdown()
