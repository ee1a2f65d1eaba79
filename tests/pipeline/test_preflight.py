"""Expected time: interpolated between measured steps, measured once, and by what has finished."""

import json
from types import SimpleNamespace

import pytest

from pipeline import preflight
from pipeline.planner import make_plan
from pipeline.preflight import Pace, expected_seconds
from pipeline.runs import own_steps, run_flops, run_folder
from tests.pipeline.test_plan import TOKENS, study


def test_a_pace_interpolates_between_measured_steps_and_scales_beyond_them(monkeypatch):
    monkeypatch.setattr("pipeline.preflight.run_flops", lambda run: run.flops)
    pace = Pace.of([(3e6, 0.03), (1e6, 0.01), (3e6, 0.01)])
    for step_flops, seconds in ((1e6, 0.01), (2e6, 0.015), (3e6, 0.02), (9e6, 0.06)):
        train = SimpleNamespace(steps=10, trunk=None)
        run = SimpleNamespace(train=train, flops=10 * step_flops)
        assert pace.seconds_of(run) == pytest.approx(10 * seconds)


@pytest.fixture
def made(tmp_path):
    planned = study(budgets=[1e11, 1e12])
    planned = type(planned).model_validate(planned.model_dump() | {"output": str(tmp_path)})
    return planned, make_plan(planned, TOKENS)


def test_probes_are_few_and_not_repeated(made, monkeypatch):
    probed = []

    def measure(probes, slots):
        probed.extend(probes)
        return {key: run_flops(run) / run.train.steps / 1e10 for key, run in probes.items()}

    monkeypatch.setattr(preflight, "_measure", measure)
    seconds = expected_seconds(*made, slots=2)
    assert len(probed) == preflight.PROBES
    for run in made[1].runs:
        assert seconds[run.fingerprint()] == pytest.approx(run_flops(run) / 1e10, rel=0.05)
    assert expected_seconds(*made, slots=2) == seconds
    assert len(probed) == preflight.PROBES


def test_what_finished_runs_took_makes_probes_needless(made, monkeypatch):
    monkeypatch.setattr(preflight, "_measure", None)
    for run in made[1].runs[::2]:
        folder = run_folder(made[0], run)
        folder.mkdir(parents=True)
        took = run_flops(run) / 5e9
        lines = [{"kind": "start"}, {"kind": "end", "status": "finished", "train_seconds": took}]
        common = {"time": 0.0, "attempt": 1, "step": own_steps(run)}
        text = "".join(json.dumps(common | line) + "\n" for line in lines)
        (folder / "journal.jsonl").write_text(text)
    seconds = expected_seconds(*made, slots=2)
    for run in made[1].runs:
        assert seconds[run.fingerprint()] == pytest.approx(run_flops(run) / 5e9, rel=0.05)
