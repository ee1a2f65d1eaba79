"""Which form of each engine runs here: the one place that looks for optional CUDA kernels."""

from __future__ import annotations

import importlib
import os
from functools import cache
from types import ModuleType

import torch

_KERNELS = {
    "softmax": "flash_attn",
    "selective_scan": "mamba_ssm.ops.selective_scan_interface",
    "conv": "causal_conv1d",
}
_FOR = {
    "softmax": "half precision, causal, full or windowed",
    "selective_scan": "rows of one document, from no state",
    "conv": "2 to 4 taps, from no state",
}
_PYTORCH = {
    "softmax": "torch scaled_dot_product_attention, blockwise for short windows",
    "selective_scan": "torch, √T chunks side by side",
    "linear_recurrence": "torch, chunked matmuls",
    "delta_rule": "torch, one triangular system per chunk",
    "rank_one": "torch, one triangular system per chunk",
    "diagonal": "torch, √T chunks side by side",
    "wkv": "torch, one diagonal recurrence",
    "conv": "torch, shifted sums",
    "long_conv": "torch, fast Fourier transforms",
    "grouped_matmul": "torch, one matmul per group",
}


@cache
def kernel(package: str) -> ModuleType | None:
    """An optional CUDA package, or None: no CUDA, not installed, broken, or switched off with
    `ISOFLOP_KERNELS=off`."""
    return _find(package)[0]


@cache
def _find(package: str) -> tuple[ModuleType | None, str]:
    if os.environ.get("ISOFLOP_KERNELS", "").lower() == "off":
        return None, "kernels are off (ISOFLOP_KERNELS=off)"
    if not torch.cuda.is_available():
        return None, "no CUDA device"
    try:
        return importlib.import_module(package), f"{package} is installed"
    except Exception as error:  # a broken extension, or one for another torch, raises anything
        return None, f"{package} cannot be imported: {error}"


def available() -> dict[str, dict[str, str]]:
    """For each engine the form that runs on this machine's best device, and why."""
    report = {}
    for engine, fallback in _PYTORCH.items():
        package = _KERNELS.get(engine)
        if package is None:
            found, why = None, "needs no kernel of its own"
        else:
            found, why = _find(package)
            why += f", for {_FOR[engine]}; otherwise {fallback}" if found else ""
        report[engine] = {"chosen": fallback if found is None else str(package), "why": why}
    return report
