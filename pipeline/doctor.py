"""What this machine has and what will run on it: packages, devices, kernels, matmul rate."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil
from rich.console import Group

from pipeline.tables import new_table, titled

PACKAGES = (
    "torch", "deepspeed", "ray", "datasets", "tokenizers", "mlflow",
    "numpy", "scipy", "pandas", "safetensors", "transformers",
    "flash-attn", "mamba-ssm", "causal-conv1d",
)  # fmt: skip
OPTIONAL = {"transformers", "flash-attn", "mamba-ssm", "causal-conv1d"}


def examine() -> dict[str, Any]:
    """Everything ``isoflop doctor`` shows, as plain values."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "engines": _engines(),
        "matmul_flops_per_second": _matmul_rates(),
        "compiler": shutil.which("cc") or shutil.which("gcc"),
        "problems": _problems(),
    }


def report(findings: dict[str, Any]) -> Group:
    """The findings as one table; what is missing says whether it matters."""
    table = new_table(["", "found", "note"], left=3)
    for name, version in findings["packages"].items():
        note = (
            "" if version else ("optional" if name in OPTIONAL else "[red]required: make setup[/]")
        )
        table.add_row(name, version or "–", note)
    table.add_section()
    for device in findings["devices"]:
        table.add_row(device["kind"], device["name"], f"{device['memory_bytes'] / 2**30:.0f} GiB")
    for name, rate in findings["matmul_flops_per_second"].items():
        table.add_row("matmul", name, f"{rate / 1e9:,.1f} GFLOP/s")
    table.add_section()
    for engine, chosen in findings["engines"].items():
        table.add_row(engine, str(chosen.get("chosen", "")), str(chosen.get("why", "")))
    for problem in findings["problems"]:
        table.add_row("[yellow]problem[/]", problem, "")
    return titled(f"isoflop on Python {findings['python']}, {findings['platform']}", table)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    import torch

    cpu = {
        "kind": "cpu",
        "name": f"{len(os.sched_getaffinity(0))} cores",
        "memory_bytes": psutil.virtual_memory().total,
    }
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        cpu,
        *({"kind": "cuda", "name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus),
    ]


def _engines() -> dict[str, dict[str, str]]:
    from models.engines.select import available

    return available()


def _matmul_rates() -> dict[str, float]:
    import torch

    from launch.device import DTYPES, peak_flops

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {f"{name}, {device.type}": peak_flops(name, device, 1) for name in DTYPES}


def _problems() -> list[str]:
    found = []
    shm = Path("/dev/shm")
    if shm.exists() and shutil.disk_usage(shm).free < 2**30:
        found.append("/dev/shm has under 1 GiB free: Ray's object store will spill to disk")
    if shutil.disk_usage(Path.cwd()).free < 5 * 2**30:
        found.append(f"{Path.cwd()} has under 5 GiB free")
    return found
