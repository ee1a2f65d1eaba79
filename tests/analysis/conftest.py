"""Tables for the tests of the analysis: a planted one, and published ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.synthetic import BESIROGLU, isoflop_grid


@pytest.fixture
def noisy() -> pd.DataFrame:
    """Nine budgets, eleven points each within a factor of six, half a percent of noise."""
    return isoflop_grid(BESIROGLU, np.geomspace(1e18, 1e22, 9), 11, 6, noise=0.005)


@pytest.fixture
def published() -> Callable[[str], pd.DataFrame]:
    """Published measurements, where this machine has them."""
    beside = Path(__file__).parents[3].joinpath("shared", "data", "laws")
    folder = Path(os.environ.get("ISOFLOP_LAW_DATA", beside))

    def read(name: str) -> pd.DataFrame:
        if not (folder / name).exists():
            pytest.skip(f"{name} is not in {folder}; set ISOFLOP_LAW_DATA to a folder that has it")
        return pd.read_csv(folder / name)

    return read
