"""The report says what the analysis says, needs nothing but itself, and can be read anywhere."""

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.estimate import Estimate
from analysis.forecast import freeze, score, write_register
from analysis.study import StudyAnalysis, analyze
from pipeline import report
from pipeline.atomic import write_text
from pipeline.config import Study, load_study
from pipeline.plan import Plan, Skipped
from pipeline.report import _doubt, page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
LAWS = {"dense": (1.35, 120.0, 400.0), "moe": (1.35, 95.0, 420.0)}
PROBE = """
<body><iframe id="frame"></iframe><script>
const page = PAGE, frame = document.getElementById("frame");
frame.srcdoc = page;
frame.onload = () => {
  const inner = frame.contentDocument, found = [];
  for (const [width, scheme] of [[400, "light"], [400, "dark"], [1600, "light"], [1600, "dark"]]) {
    frame.style = `width:${width}px;height:900px;border:0`;
    inner.documentElement.style.colorScheme = scheme;
    const marks = [...inner.querySelectorAll("figure svg path")];
    const style = frame.contentWindow.getComputedStyle(inner.body);
    const text = [...inner.querySelectorAll(".panels svg text.tick")];
    found.push({
      width, scheme,
      overflow: inner.documentElement.scrollWidth - width,
      panels: [...inner.querySelectorAll(".panels svg")].map((svg) => svg.getBBox().width > 300),
      drawn: marks.filter((mark) => mark.getTotalLength() > 1).length,
      smallest: Math.min(...text.map((each) => each.getBoundingClientRect().height)),
      ink: style.color, paper: style.backgroundColor,
    });
  }
  const button = inner.querySelector(".legend button");
  button.click();
  const off = inner.querySelectorAll(".off").length;
  document.body.textContent = JSON.stringify({found, off});
};
</script></body>
"""


FOUND: dict[str, Any] = {
    "laws": {
        "dense": {
            "data-constrained": {
                "equation": "L = E + A / N^α",
                "source": "Muennighoff et al. 2023",
                "parameters": {"E": 1.35, "alpha": 0.36},
                "intervals": {"E": [1.3, None], "alpha": [0.3, 0.4]},
                "diagnostics": {"residual_sd": 0.01, "r_squared": 0.99},
                "data": {"rows": 30},
            }
        }
    },
    "refused": [{"family": "moe", "law": "sparsity", "message": "too few runs"}],
    "trunks": {
        "saved_flops": 1e12,
        "spent_flops": 2.5e12,
        "control_flops": 5e11,
        "controls": [
            {
                "architecture": "dense",
                "params": 1e5,
                "tokens": 2e6,
                "loss": 3.2123,
                "loss_cosine": 3.2,
                "cost": 0.0123,
            }
        ],
    },
    "rule": {
        "learning_rate": {"k": 0.5, "p": -0.2, "q": 0.1},
        "batch_tokens": {"k": 10.0, "p": 0.0, "q": 0.4},
        "edges": 1,
        "probes": [
            {
                "architecture": "dense",
                "params": 1e5,
                "tokens": 2e6,
                "learning_rate": 0.01,
                "batch_tokens": 4096,
            }
        ],
    },
}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Two architectures at three budgets, and one run that diverged."""
    rows = []
    for name, (floor, size, data) in LAWS.items():
        for budget in (1e11, 4e11, 1.6e12):
            for params in np.sqrt(budget / 150) * np.geomspace(1 / 3, 3, 5):
                tokens = budget / 6 / params
                loss = floor + size / params**0.36 + data / tokens**0.36
                rows.append({"architecture": name, "budget": budget, "params": params})
                rows[-1] |= {"tokens": tokens, "flops": budget, "loss": loss}
    table = pd.DataFrame(rows)
    table["run"] = [f"run-{row}" for row in range(len(table))]
    table["own_flops"] = table["flops"]
    table["status"], table["steps"], table["learning_rate"] = "finished", 100, 0.01
    table["train_seconds"], table["mfu"], table["unique_tokens"] = 10.0, 0.4, 1e7
    table["bits_per_byte"] = table["loss"] / 2
    table.loc[3, "status"] = "diverged"
    table["reason"] = ""
    table.loc[3, "reason"] = "the loss of step 62 is inf"
    table.loc[3, ["loss", "bits_per_byte"]] = np.nan
    return table


@pytest.fixture(scope="module")
def study(analysis: StudyAnalysis, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """With one forecast on record, scored, and one altered since."""
    output = tmp_path_factory.mktemp("studies")
    found = load_study("quickstart", ["question=Which is <best> & why?", f"output={output}"])
    law = analysis.architectures["dense"].approach3
    assert law
    frozen = freeze(law, made=1e9, flops=1e13)
    register = write_register([score(frozen, 1.01 * frozen.loss, scored=2e9)])
    write_text(found.folder / "forecasts" / "dense.jsonl", register)
    write_text(found.folder / "forecasts" / "moe.jsonl", register.replace('"made": 1', '"made": 2'))
    return found


@pytest.fixture(scope="module")
def analysis(frame: pd.DataFrame) -> StudyAnalysis:
    return analyze(frame, resamples=100)


@pytest.fixture(scope="module")
def html(study: Study, frame: pd.DataFrame, analysis: StudyAnalysis) -> str:
    curves = frame[["run", "flops", "loss"]].dropna()
    skipped = Skipped("moe", 1e11, 1234, "min_steps", "it would take 62 steps; at least 100")
    plan = Plan((), (skipped,), None)  # type: ignore[arg-type]
    return page(study, plan, frame, frame, curves, analysis, FOUND)


def test_it_tells_what_the_type_of_the_study_adds(html: str) -> None:
    (law,) = re.findall(r"<h2>Laws of whole families</h2>(.*?)</section>", html)
    assert "L = E + A / N^α" in law
    assert "<b>1.35</b><small>1.3 to ∞</small>" in law
    assert "<b>moe</b> sparsity: too few runs" in law
    (trunks,) = re.findall(r"<h2>What trunks saved</h2>(.*?)</section>", html)
    assert "would take 3·10¹² FLOPs" in trunks
    assert "33% less" in trunks
    assert "<b>+0.0123</b>" in trunks
    (rule,) = re.findall(r"<h2>The best settings</h2>(.*?)</section>", html)
    assert "learning rate = 0.5 · N^-0.2 · D^0.1" in rule


def test_it_answers_for_every_architecture(html: str, analysis: StudyAnalysis) -> None:
    for name, part in analysis.architectures.items():
        assert f"</i>{name}</h2>" in html
        assert part.approach3
        assert f"C<sup>{part.approach3.derived['a'].value:.2f}</sup>" in html


def test_it_doubts_what_the_runs_leave_open() -> None:
    assert _doubt(Estimate(2e4, 1e4, 4e4)) == ""
    assert "open by a factor of 100" in _doubt(Estimate(1e4, 1e3, 1e5))
    assert "open without bound" in _doubt(Estimate(1e4, 1e3, np.inf))


def test_it_names_what_was_left_out(html: str, frame: pd.DataFrame) -> None:
    assert "it would take 62 steps" in html
    (left_out,) = re.findall(r"<h2>Left out</h2>(.*?)</section>", html)
    assert "run-3" in left_out
    assert "the loss of step 62 is inf" in left_out


def test_it_scores_the_forecasts(html: str) -> None:
    (told,) = re.findall(r"<h2>Forecasts</h2>(.*?)</section>", html)
    assert "-0.99%" in told
    assert "was altered after it was frozen" in told


def test_it_says_how_to_reproduce_it(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "git_commit", lambda: "abc123")
    monkeypatch.setattr(report, "has_changes", lambda: False)
    clean = report._reproduce(study)
    assert "git checkout abc123\n" in clean
    assert f"isoflop run {study.folder / 'study.yaml'}" in clean
    monkeypatch.setattr(report, "has_changes", lambda: True)
    assert "git checkout abc123    # and changes that are in no commit" in report._reproduce(study)


def test_text_is_escaped(html: str) -> None:
    assert escape("Which is <best> & why?") in html


def test_it_loads_nothing(html: str) -> None:
    assert not re.findall(r"(?:src|href)\s*=|url\((?!#)|@import|https?://", html)
    assert len(html) < 2**20


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here")
def test_it_draws_and_reads_in_a_browser(html: str, tmp_path: Path) -> None:
    seen = _browse(html, tmp_path)
    panels = html.count('<svg viewBox="0 0 400')
    for view in seen["found"]:
        assert view["overflow"] <= 0, view
        assert view["panels"] == [True] * panels
        assert view["drawn"] > 20 * panels
        assert view["smallest"] >= 9, "ticks of 9 px are the least that one can read"
        contrast = abs(_grey(view["ink"]) - _grey(view["paper"]))
        assert contrast > 150
        assert (_grey(view["paper"]) < 60) == (view["scheme"] == "dark")
    assert seen["off"] > 0


def _browse(html: str, folder: Path) -> Any:
    """What a page finds out about the report in a frame, at several widths and in both themes."""
    probe = folder / "probe.html"
    probe.write_text(PROBE.replace("PAGE", json.dumps(html).replace("</", "<\\/")))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000"]
    command += ["--window-size=1700,1000", probe.as_uri()]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    (found,) = re.findall(r"\{.*\}", dom)
    return json.loads(found)


def _grey(colour: str) -> float:
    """Mean of the channels of ``rgb(…)``."""
    return float(np.mean([float(part) for part in re.findall(r"[\d.]+", colour)[:3]]))
