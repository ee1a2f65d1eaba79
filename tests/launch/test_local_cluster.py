"""A cluster of this machine: its token, and what is left where it was lost."""

import os
import subprocess
from pathlib import Path

import pytest

from launch import local_cluster
from launch.local_cluster import LocalCluster
from launch.process import born


def test_the_token_of_a_local_cluster_is_made_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def start(folder: Path, number: int, options: list[str]) -> None:
        assert oct((folder / "token").stat().st_mode & 0o777) == "0o600"
        assert oct(folder.stat().st_mode & 0o777) == "0o700"
        token = (folder / "token").read_text()
        assert not any(token in option for option in options)
        raise KeyboardInterrupt

    monkeypatch.setattr(local_cluster, "_start", start)
    before = os.umask(0)
    try:
        with pytest.raises(KeyboardInterrupt):
            local_cluster.up(tmp_path / "state", nodes=1, cpus=1, shared=tmp_path)
    finally:
        os.umask(before)


def test_what_a_lost_head_has_left_is_ended_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def start(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_cluster, "_start", start)
    (tmp_path / "temp").mkdir()
    with subprocess.Popen(["sleep", "60"]) as node:
        nodes = [(2**22 + 1, "1"), (node.pid, born(node.pid))]  # no process has so high a number
        lost = LocalCluster("", "", "", str(tmp_path / "temp"), 1, 0, str(tmp_path), nodes)
        lost.write(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            local_cluster.up(tmp_path, nodes=1, cpus=1, shared=tmp_path)
        assert born(node.pid) == ""
    assert not (tmp_path / "temp").exists()
