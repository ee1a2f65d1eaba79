"""What a GPU has that is named in a cluster's file, for plans that are made where there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import nearest

UNKNOWN_FLOPS = 1e14
SHARE_OF_PEAK = 0.3
"""Of the peak that a training step is taken to reach where nothing could be measured."""


@dataclass(frozen=True)
class Gpu:
    """Bytes of memory, and FLOP/s of dense bf16 matrix products (fp16 where there is no bf16)."""

    memory: float
    peak_flops: float = UNKNOWN_FLOPS / SHARE_OF_PEAK


KNOWN = {
    "t4": Gpu(16e9, 65e12),
    "v100-16gb": Gpu(16e9, 125e12),
    "v100-32gb": Gpu(32e9, 125e12),
    "a10": Gpu(24e9, 125e12),
    "a30": Gpu(24e9, 165e12),
    "a40": Gpu(48e9, 150e12),
    "l4": Gpu(24e9, 121e12),
    "l40s": Gpu(48e9, 362e12),
    "rtx-4090": Gpu(24e9, 165e12),
    "a100-40gb": Gpu(40e9, 312e12),
    "a100-80gb": Gpu(80e9, 312e12),
    "h100": Gpu(80e9, 989e12),
    "h200": Gpu(141e9, 989e12),
    "b200": Gpu(180e9, 2250e12),
    "mi300x": Gpu(192e9, 1307e12),
}
"""By the vendors' data sheets, dense (half of what they give with sparsity)."""


def gpu(given: str) -> Gpu:
    """The GPU of this name, or any of so many gigabytes: ``h100``, ``96GB``.

    Raises:
        ValueError: it is neither.
    """
    if amount := re.fullmatch(r"(\d+(?:\.\d+)?) ?GB", given, re.IGNORECASE):
        return Gpu(float(amount[1]) * 1e9)
    if (found := KNOWN.get(given.lower())) is None:
        known = ", ".join(KNOWN)
        raise ValueError(
            f"given '{given}', allowed: its memory, such as 80GB, or one of {known}"
            f"{nearest(given.lower(), KNOWN)}"
        )
    return found
