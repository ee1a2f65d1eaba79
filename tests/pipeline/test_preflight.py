"""Expected time: interpolated between measured steps, measured once, and by what has finished."""

import json
from types import SimpleNamespace

import pytest

from pipeline import preflight
from pipeline.gpus import SHARE_OF_PEAK, gpu
from pipeline.planner import make_plan
from pipeline.preflight import HANDOVER_SECONDS, Pace, expected_seconds
from pipeline.runs import own_steps, run_flops, run_folder
from tests.pipeline.test_plan import TOKENS, study


def test_a_pace_interpolates_between_measured_steps_and_scales_beyond_them(monkeypatch):
    monkeypatch.setattr("pipeline.preflight.run_flops", lambda run: run.flops)
    pace = Pace.of([(3e6, 0.03), (1e6, 0.01), (3e6, 0.01)])
    for step_flops, seconds in ((1e6, 0.01), (2e6, 0.015), (3e6, 0.02), (9e6, 0.06)):
        train = SimpleNamespace(steps=10, trunk=None, evaluations=2)
        data = SimpleNamespace(eval_tokens=300)
        run = SimpleNamespace(train=train, data=data, tokens_per_step=100, flops=10 * step_flops)
        evaluations = 2 * 3 * seconds / 3  # three steps' tokens each, forward alone
        assert pace.seconds_of(run) == pytest.approx(10 * seconds + evaluations + HANDOVER_SECONDS)


def test_a_branch_takes_the_evaluations_after_its_trunk_alone(monkeypatch):
    monkeypatch.setattr("pipeline.preflight.run_flops", lambda run: 1e6 * run.train.steps)
    pace = Pace.of([(1e6, 0.01)])
    train = SimpleNamespace(steps=100, trunk=SimpleNamespace(step=80), evaluations=4)
    data = SimpleNamespace(eval_tokens=600)
    run = SimpleNamespace(train=train, data=data, tokens_per_step=100)
    assert pace.seconds_of(run) == pytest.approx(0.2 + 2 * 0.01 + HANDOVER_SECONDS)


def test_without_a_gpu_here_the_peak_of_the_declared_one_is_gone_by(made, monkeypatch):
    monkeypatch.setattr(preflight, "_measure", None)
    monkeypatch.setattr(preflight, "can_measure", lambda plan: False)
    known = expected_seconds(*made, slots=2, gpu=gpu("H100"))
    guessed = expected_seconds(*made, slots=2)
    for run in made[1].runs:
        training = run_flops(run) / (SHARE_OF_PEAK * 989e12)
        assert known[run.fingerprint()] == pytest.approx(training + HANDOVER_SECONDS, rel=1e-3)
        assert guessed[run.fingerprint()] > known[run.fingerprint()]
    assert "no GPU" in preflight.basis(made[1])


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "_tokens_of", lambda folder: 0)
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
        expected = run_flops(run) / 1e10 + HANDOVER_SECONDS
        assert seconds[run.fingerprint()] == pytest.approx(expected, rel=0.05)
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
        expected = run_flops(run) / 5e9 + HANDOVER_SECONDS
        assert seconds[run.fingerprint()] == pytest.approx(expected, rel=0.05)
