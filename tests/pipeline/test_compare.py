"""A study compared with itself saves nothing; with a better one, what was planted."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis import fit
from pipeline.atomic import write_text
from pipeline.compare import compare_studies, comparison_page, comparison_record
from pipeline.config import Study, load_study
from pipeline.errors import StudyError
from pipeline.fit_record import law_path

SAVING = 2.0


def study(folder: Path, name: str, saving: float, *overrides: str) -> Study:
    """A study whose dense law needs ``saving`` times less compute than the plain one for any loss."""
    budget = np.repeat(np.geomspace(1e17, 1e20, 4), 7)
    params = np.tile(np.geomspace(1 / 6, 6, 7), 4) * np.sqrt(budget / 120)
    tokens = budget / 6 / params
    share = np.sqrt(saving)  # of N and of D, so that C falls by their product
    loss = 1.8 + 477.8 / (share * params) ** 0.35 + 2143.4 / (share * tokens) ** 0.37
    columns = {"params": params, "tokens": tokens, "flops": budget, "loss": loss}
    found = load_study("quickstart", [f"name={name}", f"output={folder}", *overrides])
    write_text(law_path("dense", found.folder), fit(pd.DataFrame(columns), resamples=100).to_json())
    return found


def test_against_itself_nothing_is_saved(tmp_path: Path) -> None:
    one = study(tmp_path, "one", 1.0)
    found = compare_studies(one, one)
    assert found.remarks == ()
    for gain in found.gains:
        assert [gain.gain.value, gain.gain.low, gain.gain.high] == pytest.approx([1.0] * 3)


def test_a_planted_saving_is_found(tmp_path: Path) -> None:
    better, plain = study(tmp_path, "better", SAVING), study(tmp_path, "plain", 1.0)
    found = compare_studies(better, plain)
    assert [gain.gain.value for gain in found.gains] == pytest.approx([SAVING] * 3, rel=1e-3)
    console = Console(file=io.StringIO(), width=120)
    console.print(comparison_page(found))
    assert isinstance(console.file, io.StringIO)
    assert "better/dense" in console.file.getvalue()
    record = comparison_record(found)
    assert record.metrics
    assert record.fingerprint == comparison_record(found).fingerprint


MASKED = (
    "architectures.dense.override.branches.attention.causal=false",
    "architectures.dense.override.objective=masked",
)


def test_what_makes_them_hard_to_compare_is_said(tmp_path: Path) -> None:
    one = study(tmp_path, "one", 1.0)
    other = study(tmp_path, "other", 1.0, "tokenizer.vocab_size=640", "grid.convention=total")
    told = " ".join(compare_studies(one, other).remarks)
    assert "objectives" not in told
    masked = study(tmp_path, "masked", 1.0, *MASKED)
    assert "objectives, causal, masked" in " ".join(compare_studies(one, masked).remarks)
    assert "tokenizers differ" in told
    assert "'compute' and 'total'" in told
    assert "corpora" not in told


def test_a_study_without_a_law_is_refused(tmp_path: Path) -> None:
    empty = load_study("quickstart", ["name=empty", f"output={tmp_path}"])
    with pytest.raises(StudyError, match="study 'empty': no law there"):
        compare_studies(empty, empty)
