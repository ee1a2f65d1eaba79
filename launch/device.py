"""What this machine can do: its name, and the measured matmul rate that MFU is taken against."""

import contextlib
import ctypes
import json
import os
import platform
import re
import resource
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def keep_pages() -> None:
    """Have glibc keep freed memory: a step's tensors come back at the same sizes, and giving their
    pages back and faulting them in again takes a sixth to a third of a small model's step."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 25)  # the most that it takes


def forget_peak_memory(device: torch.device) -> None:
    """Count `peak_memory` from now on: a warm worker's runs before this one were others."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: of the GPU's memory by tensors, or of the host's by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024


def value(tensor: torch.Tensor) -> float:
    """A number, once the device has it. With NCCL it is here that a rank waits for others, which
    `launch.watchdog` knows."""
    return float(tensor)


class Stopwatch:
    """Seconds of what runs inside `with`, on the device's own clock: a GPU is not waited for."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._began = self._now()

    def __exit__(self, *_: object) -> None:
        self._spans.append((self._began, self._now()))

    def _now(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def take(self) -> float:
        """Their sum since the last `take`."""
        spans, self._spans = self._spans, []
        if not self._is_cuda:
            return float(sum(end - begin for begin, end in spans))
        torch.cuda.synchronize()
        return float(sum(begin.elapsed_time(end) for begin, end in spans)) / 1000


@cache
def peak_flops(dtype: str, device: torch.device, threads: int) -> float:
    """FLOP/s of the best of a few square matmuls. Each process measures once, and the most that
    any has found on a machine like this is kept on disk: another may have been busy."""
    key = f"{name(device)} · torch {torch.__version__} · {dtype} · {device.type} × {threads}"
    found = measure_peak(DTYPES[dtype], device)
    known = _read()
    if found > known.get(key, 0.0):
        _write(known | {key: found})
    return max(found, known.get(key, 0.0))


def measure_peak(dtype: torch.dtype, device: torch.device, seconds: float = 0.25) -> float:
    """Sizes double while they fit in `seconds`, since a slow dtype must not take minutes."""
    best, spent, size = 0.0, 0.0, 256
    while spent < seconds and size <= 16384:
        a = torch.randn(size, size, device=device).to(dtype)
        b = torch.randn(size, size, device=device).to(dtype)
        for _ in range(3):
            start = time.perf_counter()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            took = time.perf_counter() - start
            best, spent = max(best, 2 * size**3 / took), spent + took
        size *= 2
    return best


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "isoflop" / "peak_flops.json"


def _read() -> dict[str, float]:
    try:
        known: dict[str, float] = json.loads(_cache().read_text())
    except (OSError, ValueError):
        return {}
    return known


def _write(known: dict[str, float]) -> None:
    path = _cache()
    draft = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # without a home the next process measures again
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(known, indent=1))
        draft.replace(path)
