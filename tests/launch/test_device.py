"""What this machine can do, and what a run takes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from launch import device

CPU = torch.device("cpu")


def test_a_runs_peak_is_not_that_of_the_run_before():
    device.forget_peak_memory(CPU)
    before = device.peak_memory(CPU)
    big = np.ones(40_000_000)
    assert device.peak_memory(CPU) > before + 0.9 * big.nbytes
    size = big.nbytes
    del big
    device.forget_peak_memory(CPU)
    assert device.peak_memory(CPU) < before + 0.5 * size


def test_the_rate_of_a_busy_moment_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Processes measure in turn; the best of all that were is the peak."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for measured, known in ((5e9, 5e9), (2e9, 5e9), (9e9, 9e9), (1e9, 9e9)):
        device.peak_flops.cache_clear()
        monkeypatch.setattr(device, "measure_peak", lambda *_, found=measured: found)
        assert device.peak_flops("fp32", CPU, 1) == known
    device.peak_flops.cache_clear()
