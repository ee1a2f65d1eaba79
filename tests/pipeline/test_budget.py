"""Training within --max-gpu-hours: what is finished is fitted, what is left out named, all goes on."""

import io

import pandas as pd
import pytest
from rich.console import Console

from pipeline.errors import StudyError
from pipeline.study import run_study
from tests.pipeline.simulated import SECONDS, simulate, small_study


def statuses(study) -> dict[str, int]:
    return pd.read_csv(study.folder / "table.csv")["status"].value_counts().to_dict()


def test_hours_that_do_not_suffice_leave_laws_of_what_is_finished_and_go_on(tmp_path, monkeypatch):
    simulate(monkeypatch)
    study, told = small_study(tmp_path), io.StringIO()
    run_study(study, Console(file=told, width=1000), 1, device_hours=10.5 * SECONDS / 3600)
    assert statuses(study) == {"finished": 10, "planned": 5}
    assert (study.folder / "report.html").is_file()
    line = next(line for line in told.getvalue().splitlines() if "--max-gpu-hours" in line)
    assert "5 runs were not finished within it, and the laws are without them: dense-" in line

    run_study(study, Console(file=told), 1)
    assert statuses(study) == {"finished": 15}


def test_hours_in_which_nothing_ends_say_so(tmp_path, monkeypatch):
    simulate(monkeypatch)
    study, told = small_study(tmp_path), io.StringIO()
    with pytest.raises(StudyError, match="no run is finished"):
        run_study(study, Console(file=told, width=1000), 1, device_hours=0.5 * SECONDS / 3600)
    assert "15 runs were not finished within it" in told.getvalue()


def test_rounds_of_an_adaptive_study_share_the_hours(tmp_path, monkeypatch):
    simulate(monkeypatch)
    grid = (
        "grid={type: adaptive, budgets: [1e8, 3e8, 1e9], sizes: 5, min_steps: 1, max_epochs: 1e4, "
        "at: 1e10, interval: 1.0001, round: 4, spend: 1e12}"
    )
    study, told = small_study(tmp_path, grid), io.StringIO()
    run_study(study, Console(file=told, width=1000), 1, device_hours=17.5 * SECONDS / 3600)
    assert statuses(study) == {"finished": 17, "planned": 2}
    assert "were not finished within it" in told.getvalue()
