"""What the page shows is what the journals say, and it goes on for as long as the study is run."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from analysis import AnalysisError
from launch.config import RunConfig, ScheduleConfig, TrunkConfig
from launch.journal import FILE, Journal
from pipeline import watch, watched
from pipeline.config import Study, load_study
from pipeline.errors import StudyError
from pipeline.fits import surface_runs
from pipeline.kept import spoken
from pipeline.lease import Leader
from pipeline.plan import PLAN, Plan, Tokens
from pipeline.planner import make_plan
from pipeline.records import table
from pipeline.runs import own_flops, run_flops, run_folder
from pipeline.sparkline import BARS, sparkline
from pipeline.status import show_status, status_rows
from pipeline.watched import Watched

DRIVER = Leader("ada", "here", "here 1", 7, "1", "2026-01-01 00:00:00 UTC")
TOKENS = Tokens(*map(Path, ("/t/tokenizer.json", "/t/train", "/t/heldout")), "f" * 64, 10**8, 512)
Led = Callable[[Leader | None], None]


@pytest.fixture
def led(monkeypatch: pytest.MonkeyPatch) -> Led:
    """Call to change who runs the study: at first somebody does."""

    def lead(driver: Leader | None) -> None:
        monkeypatch.setattr("pipeline.lease.leader", lambda _: driver)
        monkeypatch.setattr("pipeline.status.leader", lambda _: driver)

    lead(DRIVER)
    return lead


@pytest.fixture
def study(tmp_path: Path, run_config: RunConfig, led: Led) -> Study:
    """Of three runs."""
    made = load_study("quickstart", ["name=small", f"output={tmp_path}"])
    write_plan(made, *(run_config.model_copy(update={"name": n}) for n in ("a", "b", "c")))
    return made


def write_plan(study: Study, *runs: RunConfig) -> None:
    study.folder.mkdir(parents=True, exist_ok=True)
    Plan(runs, (), TOKENS).write(study.folder / PLAN)


def runs_of(study: Study) -> dict[str, RunConfig]:
    return {run.name: run for run in Plan.read(study.folder / PLAN).runs}


def train(
    study: Study, run: RunConfig, share: float = 1.0, end: str = "", loss: float = 3.0
) -> None:
    """Let a run come so far, and end so if it does."""
    begin = run.train.trunk.step if run.train.trunk else 0
    step = begin + round(share * (run.train.steps - begin))
    tokens = step * run.tokens_per_step
    done = {"step": step, "tokens": tokens, "loss": loss}
    done["flops"] = tokens * run.cost.training_flops_per_token
    folder = run_folder(study, run)
    with Journal(folder / FILE) as journal:
        journal.begin(resumed_from=begin or None)
        rates = {"learning_rate": 0.01, "grad_norm": 1.0, "tokens_per_second": 1e4, "mfu": 0.4}
        journal.append({"kind": "step", **rates, **done})
        if end:
            journal.append({"kind": "eval", "bits_per_byte": 1.0, **done})
            about = {"reason": "as told", "train_seconds": 10.0}
            journal.append({"kind": "end", "step": step, "status": end, **about})


def looked(study: Study) -> Watched:
    found = Watched(study)
    found.refresh()
    return found


def shown(seen: Watched, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(watch.page(seen, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_tells_where_every_run_stands(study: Study) -> None:
    runs = runs_of(study)
    train(study, runs["a"], end="finished")
    train(study, runs["b"], 0.5)
    seen = looked(study)
    assert seen.share == pytest.approx(0.5)
    assert "1 of 3 runs ended, 50% of the FLOPs" in seen.headline
    text = shown(seen)
    assert "50 / 100" in text
    assert "3.000" in text
    assert "a  " not in text


def test_a_narrow_terminal_gets_whole_names(study: Study, run_config: RunConfig) -> None:
    long = run_config.model_copy(update={"name": "a-name-that-is-long"})
    write_plan(study, long)
    train(study, long, 0.5)
    seen = looked(study)
    assert "tokens/s" in shown(seen)
    narrow = shown(seen, 60)
    assert "a-name-that-is-long" in narrow
    assert "tokens/s" not in narrow
    assert "…" not in narrow


def test_the_driver_knows_best(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    train(study, runs_of(study)["b"], 0.5)
    told = {"expected_end": time.time() + 600, "paused": False}
    monkeypatch.setattr(watched, "read_sweep", lambda _: told)
    seen = looked(study)
    assert "about 10.0 min left" in seen.headline
    told["paused"] = True
    assert seen.headline.endswith("paused")


def test_it_says_when_nothing_runs_and_when_nobody_runs_it(study: Study, led: Led) -> None:
    train(study, runs_of(study)["a"], end="finished")
    assert looked(study).headline.endswith("nothing runs now")
    led(None)
    command = f"isoflop run {spoken(study.folder)}"
    assert looked(study).headline.endswith(f"nobody runs it now: `{command}` goes on")


def test_trouble_is_named_with_its_reason(study: Study) -> None:
    runs = runs_of(study)
    train(study, runs["b"], end="diverged")
    train(study, runs["c"], 0.3, end="failed")
    text = shown(looked(study))
    assert "diverged b at step 100: as told" in text
    assert "failed c at step 30: as told" in text


def test_a_silent_run_is_told(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    train(study, runs_of(study)["a"], 0.5)
    seen = looked(study)
    assert "silent" not in shown(seen)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 600)
    assert "silent for 10.0 min" in shown(seen)


def test_branches_spend_what_is_theirs_and_the_bar_is_full_at_the_very_end(
    study: Study, run_config: RunConfig
) -> None:
    trunk = run_config.model_copy(update={"name": "trunk"})
    start = TrunkConfig(run=run_folder(study, trunk), step=80)
    decay = ScheduleConfig(name="wsd")
    branched = run_config.train.model_copy(update={"trunk": start, "schedule": decay})
    branches = [
        run_config.model_copy(update={"name": f"branch-{i}", "train": branched}) for i in range(3)
    ]
    write_plan(study, trunk, *branches)
    whole = sum(map(own_flops, (trunk, *branches)))
    train(study, trunk, end="finished")
    assert looked(study).share == pytest.approx(own_flops(trunk) / whole)
    train(study, branches[0], 0.5)
    assert looked(study).share == pytest.approx(1.1 / 1.6)
    for branch in branches:
        train(study, branch, end="finished")
    assert looked(study).share == 1.0
    assert run_flops(branches[0]) == pytest.approx(5 * own_flops(branches[0]))


@pytest.mark.parametrize("kind", ["probe", "repeats"])
def test_the_law_so_far_is_of_the_runs_that_the_study_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, led: Led, kind: str
) -> None:
    """Of probes the best of each place, of repeated data the fresh runs alone."""
    fitted: list[pd.DataFrame] = []

    def fit(rows: pd.DataFrame, **_: object) -> None:
        fitted.append(rows)
        raise AnalysisError("enough")

    monkeypatch.setattr("analysis.fit", fit)
    study = load_study(kind, [f"output={tmp_path}"])
    plan = make_plan(study, TOKENS)
    write_plan(study, *plan.runs)
    for number, run in enumerate(plan.runs):
        train(study, run, end="finished", loss=3 + 0.1 * (number % 7))
    seen = looked(study)
    [rows] = fitted
    judged = surface_runs(study, table(study, plan))
    assert 3 < len(judged) < len(plan.runs)
    assert set(rows["fingerprint"]) == set(judged["fingerprint"]) == set(seen.laws["dense"].rows)
    seen.refresh()
    assert len(fitted) == 1, "nothing else has finished"


def test_it_follows_the_rounds_of_an_adaptive_study(study: Study, run_config: RunConfig) -> None:
    seen = Watched(study)
    for run in runs_of(study).values():
        train(study, run, end="finished")
    seen.refresh()
    assert seen.headline == "3 of 3 runs ended, 100% of the FLOPs"
    proposed = [run_config.model_copy(update={"name": name}) for name in ("d", "e")]
    write_plan(study, *runs_of(study).values(), *proposed)
    seen.refresh()
    assert seen.headline.startswith("3 of 5 runs ended, 60% of the FLOPs")


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch, led: Led) -> list[Callable[[], object]]:
    """What happens, one thing after another, while a watcher waits; then nobody runs the study."""
    events: list[Callable[[], object]] = []
    monkeypatch.setattr("time.sleep", lambda _: events.pop(0)() if events else led(None))
    return events


def told_by(show: Callable[[Study, Console], object], study: Study) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    show(study, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_it_goes_on_through_tokens_a_pause_and_failures_until_nobody_runs_the_study(
    study: Study, hours: list[Callable[[], object]]
) -> None:
    runs = runs_of(study)
    (study.folder / PLAN).unlink()
    hours += [
        lambda: write_plan(study, *runs.values()),
        lambda: [train(study, run, 0.2, end="preempted") for run in runs.values()],
        lambda: [train(study, runs[name], end="finished") for name in "ab"],
        lambda: train(study, runs["c"], 0.2, end="failed"),
    ]
    lines = told_by(watch.watch, study)
    assert not hours
    assert lines[0].startswith("no plan yet: ada@here pid 7 since")
    assert "nobody runs it now" in lines[-1]
    assert any(line.startswith("2 of 3 runs ended, 73% of the FLOPs") for line in lines)


def test_a_live_status_ends_when_nobody_runs_the_study(
    study: Study, hours: list[Callable[[], object]]
) -> None:
    runs = runs_of(study)
    (study.folder / PLAN).unlink()
    hours += [
        lambda: write_plan(study, *runs.values()),
        lambda: train(study, runs["c"], 0.2, end="failed"),
    ]
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    show_status(study, console, watch=True)
    assert not hours
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "no plan yet" in text
    assert "nobody runs it now" in text


def test_what_was_cut_off_does_not_run_for_ever(study: Study, led: Led) -> None:
    train(study, runs_of(study)["a"], 0.5)
    assert [row["status"] for row in status_rows(study)] == ["running", "planned", "planned"]
    led(None)
    assert [row["status"] for row in status_rows(study)] == ["stopped", "planned", "planned"]
    assert "a" not in [each.run.name for each in looked(study).running]


def test_without_a_plan_or_anybody_to_make_one_it_says_what_to_run(study: Study, led: Led) -> None:
    (study.folder / PLAN).unlink()
    led(None)
    with pytest.raises(StudyError, match="no plan there; `isoflop run`"):
        watch.watch(study, Console(file=io.StringIO()))


@given(st.lists(st.floats(-1e6, 1e6), max_size=100), st.integers(1, 30))
def test_a_sparkline_keeps_its_width_and_order(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(BARS)
    assert list(sparkline(sorted(values), width)) == sorted(sparkline(sorted(values), width))
