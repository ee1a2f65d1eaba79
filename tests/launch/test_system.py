"""A long run says how busy its machine is; a short one does not, and neither waits for it."""

import pytest
import torch

from launch import system
from launch.system import SystemLoad


def test_it_measures_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    load = SystemLoad(torch.device("cpu"))
    assert load.sample() == {}
    monkeypatch.setattr(system, "SECONDS", 0.0)
    found = load.sample()
    assert 0 < found["system_memory_usage_percentage"] < 100
    assert found["system_memory_usage_megabytes"] > 100
    assert "cpu_utilization_percentage" in found


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_is_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "SECONDS", 0.0)
    found = SystemLoad(torch.device("cuda")).sample()
    assert 0 < found["gpu_0_memory_usage_percentage"] < 100
