"""What this machine can do: its name, and the measured matmul rate that MFU is taken against."""

import contextlib
import json
import os
import platform
import time
from pathlib import Path

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


def peak_flops(dtype: str, device: torch.device, threads: int) -> float:
    """FLOP/s of the best of a few square matmuls, measured once per machine and kept on disk."""
    key = f"{name(device)} · torch {torch.__version__} · {dtype} · {device.type} × {threads}"
    known = _read()
    if key not in known:
        known[key] = measure_peak(DTYPES[dtype], device)
        _write(known)
    return known[key]


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
