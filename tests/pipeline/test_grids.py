"""Every type of study: its example loads and plans, and a planted law comes back through it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.laws.data_constrained import DATA_CONSTRAINED
from analysis.parametric import fit
from launch.config import decay_start
from pipeline.config import Study, load_study
from pipeline.errors import ConfigError
from pipeline.fits import family_laws, surface_runs, trunks
from pipeline.plan import Plan, Tokens
from pipeline.planner import make_plan
from pipeline.probes import measured_rule, told_laws, write_rule
from pipeline.proposals import read_proposals, write_proposals
from pipeline.rounds import propose
from pipeline.rules import told
from pipeline.runs import own_flops, row, run_flops, run_folder
from pipeline.yaml_file import CONFIGS

TOKENS = Tokens(
    Path("/t/tokenizer.json"),
    Path("/t/train"),
    Path("/t/heldout"),
    "f" * 64,
    unique=15 * 10**6,
    vocab_size=512,
)
PLANTED = {"E": 1.7, "A": 60.0, "alpha": 0.37, "B": 300.0, "beta": 0.34}
EXAMPLES = sorted((CONFIGS / "studies").glob("*.yaml"))


def example(name: str, *overrides: str) -> Study:
    return load_study(CONFIGS / "studies" / f"{name}.yaml", list(overrides))


def planned(name: str, *overrides: str) -> tuple[Study, Plan]:
    study = example(name, *overrides)
    return study, make_plan(study, TOKENS)


def table(plan: Plan, **columns) -> pd.DataFrame:
    frame = pd.DataFrame([row(run) for run in plan.runs]).assign(status="finished", **columns)
    p = PLANTED
    loss = p["E"] + p["A"] / frame["params"] ** p["alpha"] + p["B"] / frame["tokens"] ** p["beta"]
    return frame.assign(loss=loss)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_plans_distinct_runs_within_its_rules(path):
    study = load_study(path)
    plan = make_plan(study, TOKENS)
    assert study.name == path.stem
    assert len({run_folder(study, run) for run in plan.runs}) == len(plan.runs) > 10
    assert all(
        run.train.steps >= study.grid.min_steps for run in plan.runs if "trunk" not in run.name
    )
    assert {point.rule for point in plan.skipped} <= {"min_steps", "max_epochs"}
    assert len(plan.skipped) < len(plan.runs) / 2


def test_the_types_are_all_shown_by_an_example():
    types = {load_study(path).grid.type for path in EXAMPLES}
    assert types == {"isoflop", "ladder", "probe", "moe", "hybrid", "repeats", "adaptive"}


def test_a_ladders_branches_share_a_trunk_that_keeps_what_they_start_from():
    study, plan = planned("ladder")
    by_size: dict[int, list] = {}
    for run in plan.runs:
        by_size.setdefault(run.labels["params"], []).append(run)
    assert len(by_size) == 4
    for runs in by_size.values():
        [trunk] = [run for run in runs if run.labels["role"] == "trunk"]
        [control] = [run for run in runs if run.labels["role"] == "control"]
        branches = [run for run in runs if run.labels["role"] == "run"]
        assert trunk.train.schedule.name == "constant"
        assert control.train.schedule.name == "cosine"
        starts = [decay_start(run.train.schedule, run.train.steps) for run in branches]
        assert list(trunk.train.checkpoint_at) == sorted(starts)
        assert trunk.train.steps == max(starts)
        for branch, start in zip(branches, starts, strict=True):
            assert branch.plateau() == trunk.plateau()
            assert branch.train.trunk.run == run_folder(study, trunk)
            assert branch.train.trunk.step == start
            assert own_flops(branch) == pytest.approx(0.2 * run_flops(branch), rel=0.02)
        assert control.train.steps in {run.train.steps for run in branches}


def test_saved_flops_are_those_of_the_branches_from_scratch_less_what_is_spent():
    _, plan = planned("ladder")
    _, apart = planned("ladder", "grid.trunk=false", "train.schedule=wsd")
    spent = sum(own_flops(run) for run in plan.runs if run.labels["role"] != "control")
    assert plan.saved == pytest.approx(apart.flops - spent, rel=0.02)
    assert plan.saved > 0.3 * apart.flops
    assert apart.saved == 0


def test_a_planted_law_comes_back_through_a_ladder_and_its_controls_tell_the_schedules_cost():
    study, plan = planned("ladder")
    frame = table(plan)
    frame.loc[frame["role"] == "control", "loss"] -= 0.01
    frame.loc[frame["role"] == "trunk", "loss"] += 0.3
    judged = surface_runs(study, frame[frame["role"] == "run"])
    law = fit(judged, resamples=100)
    for name, value in PLANTED.items():
        assert law.parameters[name].value == pytest.approx(value, rel=1e-3), name
    told = trunks(plan, frame)
    assert told["saved_flops"] == plan.saved
    assert [pair["cost"] for pair in told["controls"]] == pytest.approx([0.01] * 4)


def test_repeats_see_so_many_unique_tokens_and_give_the_data_constrained_law(tmp_path):
    study, plan = planned("repeats", f"output={tmp_path}", "fit.resamples=100")
    for run in plan.runs:
        assert run.data.unique_tokens == run.labels["unique_tokens"]
    frame = table(plan)
    assert set(frame["epochs"].round(1)) == {1, 2, 4, 16}
    planted = {**PLANTED, "R_D": 12.0, "R_N": 5.0}
    columns = {name: frame[name].to_numpy(float) for name in ("params", "tokens", "unique_tokens")}
    values = {name: np.asarray(value) for name, value in planted.items()}
    frame["loss"] = DATA_CONSTRAINED.predict(values, columns)
    laws, refused = family_laws(study, frame)
    assert refused == []
    found = laws["dense"]["data-constrained"]["parameters"]
    assert found["R_D"] == pytest.approx(12.0, rel=0.02)
    assert found["alpha"] == pytest.approx(PLANTED["alpha"], rel=0.02)
    assert (surface_runs(study, frame)["epochs"] < 1.001).all()
    assert (study.folder / "fits" / "dense.data-constrained.json").is_file()


def test_a_mixture_is_repeated_as_often_as_its_parts_allow():
    parts = "corpus={{name: both, parts: [{{corpus: stdlib}}, {{corpus: stdlib, max_epochs: {}}}]}}"
    study, plan = planned("repeats", parts.format(16))
    assert max(run.labels["unique_tokens"] for run in plan.runs) == max(study.grid.unique_tokens)
    with pytest.raises(ConfigError, match=r"corpus\.parts\.1\.max_epochs: given 2, allowed: null"):
        example("repeats", parts.format(2))


def test_experts_are_cut_finer_at_equal_compute_and_give_their_laws(tmp_path):
    study, plan = planned("experts", f"output={tmp_path}", "fit.resamples=100")
    assert {"dense", "moe-e4k1g1", "moe-e16k2g2"} <= set(study.variants)
    assert len(study.variants) == 9
    fine = study.variants["moe-e16k2g2"].recipe["branches"]["moe"]
    assert (fine["n_experts"], fine["top_k"]) == (32, 4)
    frame = table(plan)
    rows = frame[frame["family"] == "moe"]
    assert set(rows["sparsity"]) == {0.5, 0.75, 0.875, 0.9375}
    size, granularity = rows["params_non_embedding"], rows["granularity"]
    frame.loc[rows.index, "loss"] = (
        0.47 + (2.1 / granularity**0.58 + 18.1) / size**0.115 + 30.8 / rows["tokens"] ** 0.147
    )
    laws, _ = family_laws(study, frame)
    assert set(laws) == {"moe"}
    assert laws["moe"]["granularity"]["diagnostics"]["residual_sd"] < 1e-4
    assert "sparsity" in laws["moe"]


def test_a_hybrids_ratios_are_spread_evenly_and_need_two_kinds_of_layer():
    study = example("hybrid_ratio")
    patterns = {name: v.recipe["pattern"] for name, v in study.variants.items()}
    assert patterns["hybrid-3to1"] == " ".join(["mamba2+mlp"] * 3 + ["attention+mlp"])
    assert patterns["hybrid-0to1"] == "attention+mlp"
    assert "mamba2" not in study.variants["hybrid-0to1"].recipe["branches"]
    with pytest.raises(ConfigError, match="kinds of layer"):
        example("hybrid_ratio", "architectures.hybrid.override={pattern: 'a b c'}")


def test_probes_find_the_planted_optimum_and_feed_another_studys_rule(tmp_path):
    study, plan = planned("probe", f"output={tmp_path}")
    frame = table(plan)
    best_rate = 0.5 * frame["params"] ** -0.3
    best_batch = 0.3 * frame["tokens"] ** 0.55
    off = np.log(frame["learning_rate"] / best_rate) ** 2
    frame["loss"] += 0.05 * off + 0.02 * np.log(frame["batch_tokens"] / best_batch) ** 2
    rule = measured_rule(frame)
    write_rule(study.folder, rule)
    assert rule["edges"] == 0
    other = example("ladder", f"output={tmp_path}", "rule={name: measured, study: probe}")
    for params in (3e4, 1e5):
        asked = other.rule(params=params, tokens=20 * params, flops=0)
        assert asked.learning_rate == pytest.approx(0.5 * params**-0.3, rel=0.05)
    assert make_plan(other, TOKENS).runs


def test_each_architecture_follows_its_own_probes(tmp_path):
    own = (
        "architectures={adamw: {recipe: llama}, muon: {recipe: llama, train: {optimizer: muon}}}",
    )
    study, plan = planned("probe", f"output={tmp_path}", *own)
    frame = table(plan)
    best = frame["architecture"].map({"adamw": 0.01, "muon": 0.02})
    frame["loss"] += 0.05 * np.log(frame["learning_rate"] / best) ** 2
    write_rule(study.folder, rule := measured_rule(frame))
    assert [whose for whose, *_ in told_laws(rule)][::2] == ["", "adamw", "muon"]
    asked = "rule={name: measured, study: probe}"
    other = example("optimizers", f"output={tmp_path}", asked, "architectures.third={recipe: gpt2}")

    def rates(study: Study) -> list[float]:
        rules = study.rules.values()
        return [rule(params=1e5, tokens=2e6, flops=0).learning_rate for rule in rules]

    assert rates(other)[:2] == pytest.approx([0.01, 0.02])
    assert 0.01 < rates(other)[2] < 0.02
    runs = make_plan(other, TOKENS).runs
    found = {run.labels["architecture"]: run.train.optimizer.learning_rate for run in runs}
    assert [found["adamw"], found["muon"]] == pytest.approx(rates(other)[:2])
    assert Study.model_validate(other.model_dump(mode="json")) == other
    assert [rule.architecture for rule in other.rules.values()] == ["adamw", "muon", None]
    assert "measured by the probes of muon in probe" in told(other.rules)
    third = "architectures.third.rule={name: measured, study: probe, architecture: %s}"
    named = example(
        "optimizers", f"output={tmp_path}", asked, "architectures.third.recipe=gpt2", third % "muon"
    )
    assert rates(named)[2] == rates(named)[1]
    with pytest.raises(
        ConfigError,
        match=r"third\.rule\.architecture: given 'moon', allowed: .*adamw, muon; did you mean 'muon'",
    ):
        example(
            "optimizers",
            f"output={tmp_path}",
            asked,
            "architectures.third.recipe=gpt2",
            third % "moon",
        )


def test_a_rule_without_its_probes_says_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match=r"rule.study: given 'probe'; .*rule.json is not there"):
        example("ladder", f"output={tmp_path}", "rule={name: measured, study: probe}")


def test_an_adaptive_study_asks_for_runs_until_it_knows_what_is_asked(tmp_path):
    study = example("adaptive", f"output={tmp_path}", "grid.interval=1.4", "grid.spend=1e13")
    noise = np.random.default_rng(0)
    widths, losses = [], {}
    for _ in range(12):
        proposals = read_proposals(study)
        plan = make_plan(study, TOKENS, proposals)
        frame = table(plan)
        for name in frame["fingerprint"]:
            losses.setdefault(name, noise.normal(0, 0.003))
        frame["loss"] *= np.exp(frame["fingerprint"].map(losses))
        law = fit(frame, resamples=200)
        best = law.allocate(study.grid.at).params
        widths.append(best.high / best.low)
        found, lines = propose(study, TOKENS, {"dense": law}, frame, proposals)
        if not found:
            break
        assert len(found) <= study.grid.round
        assert {proposal.round for proposal in found} == {len(widths)}
        write_proposals(study, [*proposals, *found])
    assert "as asked" in lines[0], lines
    assert widths[-1] <= 1.4 < widths[0]


def test_an_adaptive_study_stops_when_its_budget_is_used(tmp_path):
    study = example("adaptive", f"output={tmp_path}", "grid.interval=1.01", "grid.spend=9.5e11")
    frame = table(make_plan(study, TOKENS))
    law = fit(
        frame.assign(loss=frame["loss"] * np.geomspace(0.99, 1.01, len(frame))), resamples=100
    )
    found, _ = propose(study, TOKENS, {"dense": law}, frame)
    spent = sum(proposal.flops for proposal in found) + frame["flops"].sum()
    assert spent <= 9.5e11
    frame = frame.assign(own_flops=frame["own_flops"] * 2)
    assert propose(study, TOKENS, {"dense": law}, frame)[0] == []


@pytest.mark.parametrize("limit", [{"spend": 1e12}, {"spend": None, "hours": 1.0}])
def test_an_adaptive_study_ends_though_whatever_it_proposes_diverges(tmp_path, limit):
    """At the pace of the grid's runs an hour is as long as ``spend``."""
    study = example("adaptive", f"output={tmp_path}", "grid.interval=1.01")
    grid = study.grid.model_copy(update=limit)
    study = study.model_copy(update={"grid": grid})
    first = table(make_plan(study, TOKENS)).assign(
        train_seconds=lambda frame: 3600 * frame["own_flops"] / 1e12
    )
    law = fit(
        first.assign(loss=first["loss"] * np.geomspace(0.99, 1.01, len(first))), resamples=100
    )
    proposals: list = []
    for _ in range(200):
        plan = make_plan(study, TOKENS, proposals)
        frame = table(plan).merge(first[["fingerprint", "train_seconds"]], how="left")
        wild = ~frame["fingerprint"].isin(first["fingerprint"])
        frame.loc[wild, ["status", "loss"]] = ["diverged", np.nan]
        found, _ = propose(study, TOKENS, {"dense": law}, frame, proposals)
        if not found:
            break
        proposals += found
    assert not found
    assert proposals
    assert frame["own_flops"].sum() <= 1e12


def test_replicates_differ_in_their_seed_alone():
    _, plan = planned("replicates")
    groups = pd.DataFrame([row(run) for run in plan.runs]).groupby(["params", "tokens", "budget"])
    assert set(groups["seed"].nunique()) == {3}
