"""What the page shows is what the journals say, and it ends when they all have."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from launch.config import RunConfig
from pipeline import watch
from pipeline.sparkline import BARS, sparkline

Attempt = Callable[..., Path]


@pytest.fixture
def watched(
    run_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> watch.Watched:
    """A study of three runs, one of which the tests leave unstarted."""
    runs = tuple(
        run_config.model_copy(update={"name": name, "labels": {**run_config.labels, "seed": i}})
        for i, name in enumerate(("first", "second", "third"))
    )
    monkeypatch.setattr(watch, "run_folder", lambda _, run: tmp_path / "runs" / run.name)
    monkeypatch.setattr(RunConfig, "fingerprint", lambda run: run.name)
    flops = 3 * 100 * 1024 * 4200.0
    study: Any = SimpleNamespace(name="quickstart", variants={"dense": None}, folder=Path("none"))
    plan: Any = SimpleNamespace(runs=runs, flops=flops)
    return watch.Watched(study, plan)


def shown(watched: watch.Watched, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(watch.page(watched, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_tells_where_every_run_stands(watched: watch.Watched, attempt: Attempt) -> None:
    attempt("first")
    attempt("second", steps=range(10, 51, 10), end=None)
    watched.refresh()
    assert watched.share == pytest.approx(0.5)
    assert "1 of 3 runs ended, 50% of the FLOPs" in watched.headline
    text = shown(watched)
    assert "50 / 100" in text
    assert "3.020" in text
    assert "first" not in text
    assert not watched.is_over


def test_a_narrow_terminal_gets_whole_names(watched: watch.Watched, attempt: Attempt) -> None:
    attempt("second", steps=range(10, 51, 10), end=None)
    watched.refresh()
    assert "tokens/s" in shown(watched)
    narrow = shown(watched, 60)
    assert "second" in narrow
    assert "tokens/s" not in narrow
    assert "…" not in narrow


def test_the_driver_knows_best(
    watched: watch.Watched, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt("second", steps=range(10, 51, 10), end=None)
    told = {"expected_end": time.time() + 600, "paused": False}
    monkeypatch.setattr(watch, "read_sweep", lambda _: told)
    watched.refresh()
    assert "about 10.0 min left" in watched.headline
    told["paused"] = True
    assert watched.headline.endswith("paused")


def test_it_says_when_nothing_runs(watched: watch.Watched, attempt: Attempt) -> None:
    attempt("first")
    watched.refresh()
    assert watched.headline.endswith("nothing runs now")


def test_a_diverged_run_is_named_with_its_reason(watched: watch.Watched, attempt: Attempt) -> None:
    for name in ("first", "second"):
        attempt(name)
    attempt("third", end="diverged", reason="loss is not finite")
    watched.refresh()
    assert "diverged third at step 100: loss is not finite" in shown(watched)
    assert watched.is_over


def test_a_silent_run_is_told(
    watched: watch.Watched, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt("first", end=None)
    watched.refresh()
    assert "silent" not in shown(watched)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 600)
    assert "silent for 10.0 min" in shown(watched)


def test_without_a_terminal_it_is_plain_lines(watched: watch.Watched, attempt: Attempt) -> None:
    for name in ("first", "second", "third"):
        attempt(name)
    console = Console(file=io.StringIO())
    watch._watch_plainly(watched, console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "3 of 3 runs ended, 100% of the FLOPs\n"


@given(st.lists(st.floats(-1e6, 1e6), max_size=100), st.integers(1, 30))
def test_a_sparkline_keeps_its_width_and_order(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(BARS)
    assert list(sparkline(sorted(values), width)) == sorted(sparkline(sorted(values), width))
