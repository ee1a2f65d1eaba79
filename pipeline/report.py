"""A study's report, from the question to how to reproduce it, or a table's: one page alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.estimate import Estimate
from analysis.plots import charts_of
from analysis.plots.chart import Chart, category, number, power, shade
from analysis.result import Allocation
from analysis.study import ArchitectureStudy, StudyAnalysis
from pipeline import report_tables as tables
from pipeline.atomic import write_text
from pipeline.config import Study
from pipeline.kept import STUDY
from pipeline.plan import Plan
from pipeline.report_by_type import sections as by_type
from pipeline.run_facts import git_commit, has_changes
from pipeline.svg import draw, legend, themed
from pipeline.tables import duration

OPEN = 10.0  # an interval of the size whose ends are further apart than this answers little
CAPTIONS = {
    "loss_curves": "Each line is a run, from its first step to its last; the darker, the smaller "
    "the model. No run goes below the envelope; the law tells where the best of all sizes lies.",
    "isoflop_profiles": "Runs that spent the same compute on models of different size. Too small "
    "a model lacks capacity, too large a one lacks data; the star is the best size in between.",
    "allocation": "How size and data should grow together. Bands are 95 % intervals; the shaded "
    "part lies beyond any run and is the law's word alone.",
    "residuals": "Measured over predicted loss. What is left should be noise around zero: a trend "
    "would mean that the law has the wrong shape.",
    "surface": "The law as a landscape: lines of equal loss, the runs that it rests on, and the "
    "path along which loss falls fastest with compute.",
    "profile_of_E": "How badly each value of the irreducible loss would fit. In a flat valley the "
    "runs can hardly tell what no model could learn from what is still to be learned.",
    "holdout": "Fitted to the cheaper budgets, the law predicts the dearer runs that it has not "
    "seen. Bars are the interval for a new run: nineteen in twenty should cross zero.",
    "architectures": "Left, the loss of the best model at each compute. Right, how much more "
    "compute the baseline needs for the same loss: above 1, the architecture is the better buy.",
}


def write_report(
    study: Study,
    plan: Plan,
    frame: pd.DataFrame,
    judged: pd.DataFrame,
    curves: pd.DataFrame,
    analysis: StudyAnalysis,
    found: Mapping[str, Any],
) -> Path:
    """Write `report.html` in the study's folder, atomically, and return its path.

    `frame` is the study's table of runs, `judged` the rows of it that `analysis` is of, `curves`
    their points (`pipeline.records`), and `found` what the study's type adds
    (`pipeline.fits.by_type`).
    """
    path = study.folder / "report.html"
    write_text(path, page(study, plan, frame, judged, curves, analysis, found))
    return path


def page(
    study: Study,
    plan: Plan,
    frame: pd.DataFrame,
    judged: pd.DataFrame,
    curves: pd.DataFrame,
    analysis: StudyAnalysis,
    found: Mapping[str, Any],
) -> str:
    """The report as HTML."""
    sections = [
        ("Compute-optimal allocation", tables.allocations(analysis), ALLOCATION_NOTE),
        ("The fitted laws", tables.laws(analysis), LAW_NOTE),
        *by_type(found),
        ("How it predicted what it had not seen", tables.holdouts(analysis), HOLDOUT_NOTE),
        ("Forecasts", tables.forecasts(study.folder), FORECAST_NOTE),
        ("By what is counted as a parameter", tables.conventions(analysis), CONVENTION_NOTE),
        ("Warnings", _warnings(analysis), ""),
        ("Left out", tables.left_out(analysis, plan, judged), ""),
        ("What it cost", tables.cost(frame), ""),
        ("Reproduce", _reproduce(study), ""),
        ("Every run", _folded(f"{len(frame)} runs", tables.runs(frame)), ""),
        ("The study", _folded("as resolved, with every default", _resolved(study)), ""),
    ]
    charts = [chart for chart in charts_of(analysis, curves) if any(p.marks for p in chart.panels)]
    return _document(study.name, _head(study, frame), analysis, charts, sections)


def table_page(name: str, analysis: StudyAnalysis) -> str:
    """The report on a table of runs from elsewhere, of which there is no study, as HTML."""
    rows = len(analysis.table)
    sections = [
        ("Compute-optimal allocation", tables.allocations(analysis), ALLOCATION_NOTE),
        ("The fitted laws", tables.laws(analysis), LAW_NOTE),
        ("How it predicted what it had not seen", tables.holdouts(analysis), HOLDOUT_NOTE),
        ("By what is counted as a parameter", tables.conventions(analysis), CONVENTION_NOTE),
        ("Warnings", _warnings(analysis), ""),
    ]
    head = (
        f'<header><p class="over">isoflop fit</p><h1>{escape(name)}</h1><div class="facts">'
        f"<div><b>{rows}</b><span>of {rows + len(analysis.excluded)} rows kept</span></div>"
        f"<div><b>{len(analysis.architectures)}</b><span>architectures</span></div></div></header>"
    )
    return _document(name, head, analysis, charts_of(analysis), sections)


def _document(
    title: str,
    head: str,
    analysis: StudyAnalysis,
    charts: Sequence[Chart],
    sections: Sequence[tuple[str, str, str]],
) -> str:
    body = [
        head,
        f'<div class="answers">{"".join(_answers(analysis))}</div>',
        *(_figure(chart) for chart in charts),
        *(_section(title, html, note) for title, html, note in sections if html),
    ]
    template = files("pipeline").joinpath("report.html").read_text(encoding="utf-8")
    ramp = ",".join(themed(shade(step / 6)) for step in range(7))
    template = template.replace("{{ramp}}", ramp)
    return template.replace("{{title}}", escape(title)).replace("{{body}}", "\n".join(body))


ALLOCATION_NOTE = "By the fitted law, with 95 % intervals; N* by IsoFLOP profiles beside it."
LAW_NOTE = (
    "L = E + A/N<sup>α</sup> + B/D<sup>β</sup>, with 95 % intervals. Where the two exponents "
    "disagree, the runs do not decide between a parabola at each budget and one surface for all."
)
HOLDOUT_NOTE = "Each line is a law fitted below a compute cut and scored on the runs above it."
FORECAST_NOTE = "Frozen before their runs existed; the interval is that for a new run."
CONVENTION_NOTE = "The same runs; another N gives another exponent. Name yours when you quote one."


def _head(study: Study, frame: pd.DataFrame) -> str:
    ended = frame[frame["status"] == "finished"]
    facts = [
        (f"{len(ended)}", f"of {len(frame)} runs finished"),
        (f"{len(study.variants)}", "architectures"),
        (power(float(ended["own_flops"].sum()), 2), "training FLOPs"),
        (
            number(float(frame["unique_tokens"].max()), 3),
            f"training tokens of {escape(study.corpus.name)}",
        ),
        (duration(float(ended["train_seconds"].sum())), "of training, over all slots"),
    ]
    cells = "".join(f"<div><b>{value}</b><span>{text}</span></div>" for value, text in facts)
    question = escape(study.question or study.name)
    return (
        f'<header><p class="over">isoflop study · {escape(study.name)}</p><h1>{question}</h1>'
        f'<div class="facts">{cells}</div></header>'
    )


def _answers(analysis: StudyAnalysis) -> Iterator[str]:
    """One card an architecture: what to train beyond the largest budget, and against what odds."""
    for index, (name, part) in enumerate(analysis.architectures.items()):
        hue = f'style="--hue:{category(index)[0]}"'
        text = _answer(part, analysis) if part.allocations["approach3"] else _refusal(part)
        yield f"<article {hue}><h2><i></i>{escape(name)}</h2>{text}</article>"


def _answer(part: ArchitectureStudy, analysis: StudyAnalysis) -> str:
    largest = analysis.budgets[-1]
    best = next((a for a in part.allocations["approach3"] if a.flops > largest), None)
    best = best or part.allocations["approach3"][-1]
    assert part.approach3
    exponent = part.approach3.derived["a"]
    return (
        f"<p>With <b>{power(best.flops)} FLOPs</b>{_beyond(best)}, train {_many(best)}.</p>"
        f"<p>The best size grows as C<sup>{exponent.value:.2f}</sup> "
        f"<small>(95 %: {tables.interval(exponent, 2)})</small>.</p>"
        f"{_gain(part.name, best.flops, analysis)}{_doubt(best.params)}"
    )


def _doubt(size: Estimate) -> str:
    """What to say of an interval too wide to act on."""
    if size.high < OPEN * size.low:
        return ""
    how = f"by a factor of {number(size.high / size.low)}" if size.bounded else "without bound"
    return f"<p class='doubt'>These runs leave the best size open {how}.</p>"


def _beyond(best: Allocation) -> str:
    if best.extrapolation <= 1:
        return ""
    return f", {number(float(f'{best.extrapolation:.2g}'))} times the largest run"


def _many(best: Allocation) -> str:
    loss = ""
    if best.loss:
        ends = tables.interval(best.loss, 4)
        loss = f" and expect a loss of <b>{best.loss.value:.3f}</b> <small>({ends})</small>"
    return (
        f"<b>{number(best.params.value)} parameters</b> "
        f"<small>({tables.interval(best.params)})</small> "
        f"on <b>{number(best.tokens.value)} tokens</b>{loss}"
    )


def _gain(name: str, flops: float, analysis: StudyAnalysis) -> str:
    for gain in analysis.gains:
        if gain.architecture == name and gain.flops == flops:
            ends = tables.interval(gain.gain, 2)
            verdict = "" if gain.decided else " These runs do not decide which is better."
            return (
                f"<p>{escape(gain.baseline)} needs <b>{number(gain.gain.value)}×</b> the compute "
                f"<small>({ends})</small> for that loss.{verdict}</p>"
            )
    return ""


def _refusal(part: ArchitectureStudy) -> str:
    why = part.notices[0].message if part.notices else "too few runs"
    return f"<p>These runs determine no law: {escape(why)}.</p>"


def _figure(chart: Chart) -> str:
    panels = "".join(f"<div>{draw(chart, i)}</div>" for i in range(len(chart.panels)))
    entries = "".join(
        f'<button type="button" data-key="{escape(label)}">{swatch}{escape(label)}</button>'
        for label, swatch in legend(chart).items()
    )
    scale = ""
    if chart.scale:
        ends = [
            power(v) if chart.scale.powers else number(v)
            for v in (chart.scale.low, chart.scale.high)
        ]
        scale = (
            f'<span class="scale">{escape(chart.scale.label)}: {ends[0]} <i></i> {ends[1]}</span>'
        )
    caption = CAPTIONS.get(chart.name, "")
    return (
        f'<figure id="{chart.name}"><h2>{escape(chart.title)}</h2><p>{caption}</p>'
        f'<div class="panels">{panels}</div><div class="legend">{scale}{entries}</div></figure>'
    )


def _section(title: str, html: str, note: str) -> str:
    return f"<section><h2>{title}</h2>{f'<p>{note}</p>' if note else ''}{html}</section>"


def _warnings(analysis: StudyAnalysis) -> str:
    told = [("", notice) for notice in analysis.notices]
    told += [(name, n) for name, part in analysis.architectures.items() for n in part.notices]
    items = "".join(
        f"<li><b>{escape(name or 'table')}</b> {escape(notice.message)}</li>"
        for name, notice in told
    )
    return f"<ul>{items}</ul>" if items else ""


def _reproduce(study: Study) -> str:
    commit, kept = git_commit(), Path(study.output) / study.name / STUDY
    changed = "    # and changes that are in no commit" if has_changes() else ""
    lines = [f"git checkout {commit}{changed}"] if commit else []
    lines += ["make setup", f"isoflop run {kept}    # goes on from whatever is there"]
    prints = f"Study {study.fingerprint()[:12]}; the same fingerprint plans the same runs."
    return f"<pre>{escape(chr(10).join(lines))}</pre><p>{prints}</p>"


def _resolved(study: Study) -> str:
    return f"<pre>{escape(json.dumps(study.model_dump(mode='json'), indent=2))}</pre>"


def _folded(summary: str, html: str) -> str:
    return f"<details><summary>{summary}</summary>{html}</details>"
