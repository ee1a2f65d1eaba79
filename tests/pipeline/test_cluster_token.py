"""Tokens come from the environment or from a file that is its owner's alone."""

import pytest

from pipeline.cluster_file import RayCluster
from pipeline.cluster_token import read_token
from pipeline.errors import ConfigError
from pipeline.ray_jobs import door


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text("sesame\n")
    path.chmod(0o600)
    return path


def ray_cluster(url: str, token_file: str | None = None) -> RayCluster:
    return RayCluster(
        kind="ray", nodes=1, cpus_per_node=1, shared="/s", dashboard=url, token_file=token_file
    )


def test_the_environment_comes_before_the_file(token):
    assert read_token(str(token), {}) == "sesame"
    assert read_token(str(token), {"RAY_AUTH_TOKEN": "open"}) == "open"
    assert read_token(None, {"RAY_AUTH_TOKEN_PATH": str(token)}) == "sesame"
    assert read_token(None, {}) is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o620, 0o601])
def test_a_file_that_others_may_use_is_refused_without_its_content(token, mode):
    token.chmod(mode)
    with pytest.raises(ConfigError, match=rf"given mode {mode:04o} .* allowed: 0600") as refused:
        read_token(str(token), {})
    assert "sesame" not in str(refused.value)


def test_a_missing_and_an_empty_file_are_refused(token):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(f"{token}s", {})
    token.write_text("")
    with pytest.raises(ConfigError, match="it is empty"):
        read_token(str(token), {})


def test_a_dashboard_elsewhere_needs_a_token(token, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for url in ("http://head:8265", "https://10.0.0.5", "http://0.0.0.0:8265"):
        with pytest.raises(ConfigError, match="not on this machine and there is no token"):
            door(ray_cluster(url))
        assert door(ray_cluster(url, str(token))) == (url, "sesame")
    for url in ("http://127.0.0.1:8265", "http://localhost:1", "http://[::1]:8265"):
        assert door(ray_cluster(url)) == (url, None)


@pytest.mark.parametrize("address", ["10.0.0.5:6379", "ray://head:10001", "0.0.0.0:6379"])
def test_a_driver_joins_no_open_cluster_of_another_machine(address, monkeypatch):
    from launch import cluster

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ValueError, match="allowed: RAY_AUTH_MODE=token"):
        cluster.connect(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match="allowed: RAY_AUTH_MODE=token"):
        cluster.connect("auto")
