"""Expected time: interpolated between measured steps, measured once, and by what has finished."""

import json

import pytest

from pipeline import pace, preflight, trial
from pipeline.gpus import SHARE_OF_PEAK, gpu
from pipeline.pace import HANDOVER_SECONDS, Pace, guessed, halved
from pipeline.planner import make_plan
from pipeline.preflight import PROBES, expected_seconds
from pipeline.runs import own_steps, run_flops, run_folder
from pipeline.trial import Timing
from tests.pipeline.test_plan import TOKENS, study


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A study of two budgets, planned on a machine of eight cores."""
    monkeypatch.setattr(pace, "_tokens_of", lambda folder: 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    planned = study(budgets=[1e11, 1e12])
    planned = type(planned).model_validate(planned.model_dump() | {"output": str(tmp_path)})
    return planned, make_plan(planned, TOKENS)


@pytest.fixture
def run(made):
    """A run of a thousand steps of 512 tokens, which saves nothing and evaluates nothing."""
    run = made[1].runs[0]
    train = run.train.model_copy(update={"steps": 1000, "checkpoint_every": None})
    return run.model_copy(update={"train": train})


def changed(run, section, **values):
    inner = getattr(run, section).model_copy(update=values)
    return run.model_copy(update={section: inner})


def flops(run):
    return run_flops(run) / run.train.steps


def sized(run, width, n_layers, rows):
    """``run`` of another shape, at 128 tokens a row; its FLOPs are those of its matrices."""
    cost = run.cost.model_copy(update={"training_flops_per_token": 72.0 * n_layers * width**2})
    model = run.model | {"width": width, "n_layers": n_layers}
    return changed(run, "data", batch_size=rows).model_copy(update={"model": model, "cost": cost})


def synthetic(run):
    """Seconds of a step on a machine of 1 ms a step, 2 µs a token and layer, 50 GFLOP/s."""
    tokens = run.tokens_per_step
    return 1e-3 + 2e-6 * tokens * run.model["n_layers"] + flops(run) / 5e10


def test_a_pace_finds_what_steps_of_shapes_that_were_not_tried_take(run):
    tried = [sized(run, *shape) for shape in ((8, 1, 8), (8, 3, 2), (24, 2, 8), (48, 3, 8))]
    found = Pace([(one, Timing(synthetic(one), 0.0)) for one in tried])
    others = [sized(run, *shape) for shape in ((16, 2, 4), (12, 4, 1), (64, 5, 8), (4, 1, 1))]
    for one in (*tried, *others):  # also beyond those tried, on both sides
        expected = 1000 * synthetic(one) + HANDOVER_SECONDS
        assert found.seconds_of(one) == pytest.approx(expected, rel=1e-6)


def test_a_pace_keeps_to_what_was_measured_where_a_width_is_slow(run):
    tried = [sized(run, width, 2, 8) for width in (8, 16, 24, 32)]
    slow = [synthetic(one) * (1.7 if one.model["width"] == 24 else 1.0) for one in tried]
    found = Pace([(one, Timing(took, 0.0)) for one, took in zip(tried, slow, strict=True)])
    for one, took in zip(tried, slow, strict=True):
        assert found.seconds_of(one) == pytest.approx(1000 * took + HANDOVER_SECONDS, rel=1e-6)
    again = Pace([(tried[0], Timing(0.01, 0.0)), (tried[0], Timing(0.03, 0.0))])
    assert again.seconds_of(tried[0]) == pytest.approx(20 + HANDOVER_SECONDS, rel=1e-6)


def test_of_one_timing_alone_others_go_by_their_flops(run):
    found = Pace([(run, Timing(0.01, 0.0))])
    larger = sized(run, 2 * run.model["width"], run.model["n_layers"], run.data.batch_size)
    expected = 10 * flops(larger) / flops(run) + HANDOVER_SECONDS
    assert found.seconds_of(larger) == pytest.approx(expected, rel=1e-6)


def test_what_a_gang_shares_counts_on_each_of_its_ranks(run):
    gang = changed(run, "parallel", ranks=2)
    found = Pace([(run, Timing(0.01, 0.0))])
    assert found.seconds_of(gang) == pytest.approx(5 + HANDOVER_SECONDS, rel=1e-6)
    assert guessed(gang, 1e12).step == guessed(run, 1e12).step / 2


def test_starts_evaluations_and_checkpoints_take_time_beside_the_steps(run):
    known = Pace([(run, Timing(0.01, 0.004, start=2.0))])
    before = known.seconds_of(run)
    assert before == pytest.approx(2 + 10 + HANDOVER_SECONDS)
    judged = changed(run, "data", eval_tokens=10 * run.tokens_per_step)
    judged = changed(judged, "train", evaluations=3)
    assert known.seconds_of(judged) - before == pytest.approx(3 * 10 * 0.004)
    size = run.cost.params.total * 12
    saved = changed(run, "train", checkpoint_every=250)
    told = 4 * size / pace.COPY_SPEED + size / pace.WRITE_SPEED
    assert known.seconds_of(saved) - before == pytest.approx(told)


def test_a_branch_takes_what_comes_after_its_trunk_alone(run, tmp_path):
    from launch.config import TrunkConfig

    run = changed(run, "data", eval_tokens=6 * run.tokens_per_step)
    branch = changed(run, "train", evaluations=4, trunk=TrunkConfig(run=tmp_path, step=800))
    known = Pace([(run, Timing(0.01, 0.003))])
    assert known.seconds_of(branch) == pytest.approx(2 + 6 * 0.003 + HANDOVER_SECONDS)


def test_probes_halve_the_gap_where_most_is_spent():
    assert halved([1], 4) == [0]
    assert halved([1, 1, 1], 6) == [0, 1, 2]
    assert halved([1] * 9, 5) == [0, 2, 4, 6, 8]
    assert halved([1, 1, 1, 1, 1, 9, 9, 9, 1], 5) == [0, 5, 6, 7, 8]


def test_without_a_gpu_here_the_peak_of_the_declared_one_is_gone_by(made, monkeypatch):
    monkeypatch.setattr(trial, "measure", None)
    monkeypatch.setattr(preflight, "can_measure", lambda plan: False)
    known = expected_seconds(*made, slots=2, gpu=gpu("H100"))
    unknown = expected_seconds(*made, slots=2)
    for run in made[1].runs:
        training = run_flops(run) / (SHARE_OF_PEAK * 989e12)
        seconds = known.seconds[run.fingerprint()] - pace._saving(run)
        assert seconds == pytest.approx(training + HANDOVER_SECONDS, rel=1e-3)
        assert unknown.seconds[run.fingerprint()] > known.seconds[run.fingerprint()]
    assert "no GPU" in known.basis


def test_probes_are_few_and_not_repeated(made, monkeypatch):
    tried = []

    def measure(runs, slots, log):
        tried.extend(runs)
        return {key: Timing(flops(run) / 1e10, 0.0) for key, run in runs.items()}

    monkeypatch.setattr(trial, "measure", measure)
    found = expected_seconds(*made, slots=2)
    assert len(tried) == PROBES
    for run in made[1].runs:
        expected = run_flops(run) / 1e10 + HANDOVER_SECONDS
        assert found.seconds[run.fingerprint()] == pytest.approx(expected, rel=0.05)
    assert expected_seconds(*made, slots=2) == found
    assert len(tried) == PROBES
    expected_seconds(*made, slots=4)
    assert len(tried) == 2 * PROBES


def test_what_one_rank_cannot_hold_is_guessed_by_the_peak_and_said(made, monkeypatch):
    peaks = []

    def peak(run, log):
        peaks.append(run)
        return 5e12

    monkeypatch.setattr(trial, "measured_peak", peak)
    monkeypatch.setattr(trial, "measure", lambda runs, slots, log: dict.fromkeys(runs))
    found = expected_seconds(*made, slots=2)
    for run in made[1].runs:
        guess = run.train.steps * guessed(run, 5e12).step
        assert found.seconds[run.fingerprint()] == pytest.approx(
            guess + HANDOVER_SECONDS + pace._saving(run), rel=1e-6
        )
    assert f"not measured: {PROBES} of {PROBES}" in found.basis
    assert expected_seconds(*made, slots=2) == found
    assert len(peaks) == 1
    known = expected_seconds(*made, slots=2, gpu=gpu("H100"))
    assert len(peaks) == 1
    assert sum(known.seconds.values()) < sum(found.seconds.values())


def test_what_finished_runs_took_makes_probes_needless(made, monkeypatch):
    monkeypatch.setattr(trial, "measure", None)
    for run in made[1].runs[::2]:
        folder = run_folder(made[0], run)
        folder.mkdir(parents=True)
        took = run_flops(run) / 5e9
        lines = [{"kind": "start"}, {"kind": "end", "status": "finished", "train_seconds": took}]
        common = {"time": 0.0, "attempt": 1, "step": own_steps(run)}
        text = "".join(json.dumps(common | line) + "\n" for line in lines)
        (folder / "journal.jsonl").write_text(text)
    found = expected_seconds(*made, slots=2)
    for run in made[1].runs:
        expected = run_flops(run) / 5e9 + HANDOVER_SECONDS
        assert found.seconds[run.fingerprint()] == pytest.approx(expected, rel=0.05)
    assert "runs that have finished" in found.basis


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("train", {"activation_checkpointing": True}),
        ("train", {"dtype": "bf16"}),
        ("train", {"compile": True}),
        ("train", {"micro_batch_size": 1}),
        ("parallel", {"ranks": 2}),
        ("parallel", {"ranks": 2, "zero_stage": 3}),
        ("parallel", {"threads": 2}),
        ("data", {"sequence_length": 64}),
        ("model", {"width": 128}),
    ],
)
def test_a_timing_is_kept_for_what_it_depends_on(run, section, values):
    key = preflight._key(run, 2, None)
    other = (
        run.model_copy(update={"model": run.model | values})
        if section == "model"
        else changed(run, section, **values)
    )
    assert preflight._key(other, 2, None) != key
    assert preflight._key(run, 3, None) != key
    assert preflight._key(run, 64, None) == preflight._key(run, 8, None)  # others are elsewhere


def test_a_timing_is_that_of_one_machine_and_of_any_seed(run, monkeypatch):
    key = preflight._key(run, 2, None)
    again = changed(run, "train", seed=7, steps=77).model_copy(update={"name": "other"})
    assert preflight._key(again, 2, None) == key
    preflight._machine.cache_clear()
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert preflight._key(run, 2, None) != key
    preflight._machine.cache_clear()


def test_a_file_of_another_version_is_measured_anew(tmp_path):
    path = tmp_path / "preflight.json"
    path.write_text('{"a": 0.1}')
    assert preflight._kept(path) == {}
