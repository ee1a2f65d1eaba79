"""How busy this machine and this rank's GPU are, now and then, in MLflow's names for it."""

import contextlib
import time

import psutil
import torch

SECONDS = 30.0
"""Between samples: a run that ends sooner has none."""


class SystemLoad:
    """Measures at most every `SECONDS`; utilization and power of a GPU need nvidia-ml-py."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._last = device, time.monotonic()
        psutil.cpu_percent()  # the next call is about the time since this one

    def sample(self) -> dict[str, float]:
        """Percentages, megabytes and watts by name; nothing between samples."""
        now = time.monotonic()
        if now - self._last < SECONDS:
            return {}
        self._last = now
        memory = psutil.virtual_memory()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "system_memory_usage_megabytes": memory.used / 1e6,
        }
        return found | (self._gpu() if self._device.type == "cuda" else {})

    def _gpu(self) -> dict[str, float]:
        name = f"gpu_{self._device.index or 0}"
        free, total = torch.cuda.mem_get_info(self._device)
        found = {
            f"{name}_memory_usage_megabytes": (total - free) / 1e6,
            f"{name}_memory_usage_percentage": 100 * (1 - free / total),
        }
        with contextlib.suppress(Exception):  # each driver has errors of its own
            found[f"{name}_utilization_percentage"] = float(torch.cuda.utilization(self._device))
            found[f"{name}_power_usage_watts"] = torch.cuda.power_draw(self._device) / 1000
        return found
