"""The tables of a study's report, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from analysis.estimate import Estimate
from analysis.forecast import Forecast, read_register
from analysis.notices import AnalysisError
from analysis.plots.chart import number, power
from analysis.study import StudyAnalysis
from pipeline.plan import Plan
from pipeline.show import present
from pipeline.tables import duration

DASH = "–"
CONVENTIONS = {
    "params_total": "all",
    "params_active": "active per token",
    "params_non_embedding": "all but embeddings",
    "params_compute": "all that multiply a token",
}


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Cells are HTML already; all but the first `left` columns hold numbers.

    A first cell that repeats the one above it is left empty.
    """
    kinds = ["" if column < left else ' class="n"' for column in range(len(head))]
    top = "".join(f"<th{kind}>{text}</th>" for kind, text in zip(kinds, head, strict=True))
    body, above = "", ""
    for first, *rest in rows:
        cells = zip(kinds, ["" if first == above else first, *rest], strict=True)
        mark = "" if first == above else ' class="first"'
        body += f"<tr{mark}>{''.join(f'<td{kind}>{text}</td>' for kind, text in cells)}</tr>"
        above = first
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>' if body else ""


def estimate(found: Estimate | None, digits: int = 3) -> str:
    """A value with its interval beneath."""
    if found is None or not present(found.value):
        return DASH
    return f"<b>{_plain(found.value, digits)}</b><small>{interval(found, digits)}</small>"


def interval(found: Estimate, digits: int = 3) -> str:
    """``low to high``, an end that is unbounded as ∞."""
    return f"{_end(found.low, digits)} to {_end(found.high, digits)}"


def allocations(analysis: StudyAnalysis) -> str:
    """What to train at each budget and beyond, by the parametric fit."""
    head = ["", "FLOPs", "× largest", "parameters N*", "tokens D*", "D*/N*", "loss", "N*, profiles"]
    rows = []
    for name, part in analysis.architectures.items():
        profiles = {best.flops: best for best in part.allocations["approach2"]}
        for best in part.allocations["approach3"]:
            other = profiles.get(best.flops)
            rows.append(
                [
                    escape(name),
                    power(best.flops),
                    number(best.extrapolation, 2),
                    estimate(best.params),
                    estimate(best.tokens),
                    estimate(best.tokens_per_param),
                    estimate(best.loss, 4),
                    estimate(other.params) if other else DASH,
                ]
            )
    return html_table(head, rows)


def laws(analysis: StudyAnalysis) -> str:
    """Parameters of the fitted laws, and the exponent by both approaches."""
    fits = {name: part.approach3 for name, part in analysis.architectures.items()}
    names = list(dict.fromkeys(key for fit in fits.values() if fit for key in fit.parameters))
    head = ["", *names, "N* ∝ C^a, fit", "N* ∝ C^a, profiles", "residual sd", "R²", "runs"]
    rows = []
    for name, fit in fits.items():
        profiles = analysis.architectures[name].approach2
        values = [estimate(fit.parameters.get(key)) if fit else DASH for key in names]
        quality = [DASH, DASH]
        if fit:
            quality = [f"{fit.diagnostics.residual_sd:.2%}", f"{fit.diagnostics.r_squared:.4f}"]
        exponents = [
            estimate(fit.derived.get("a")) if fit else DASH,
            estimate(profiles.a) if profiles else DASH,
        ]
        count = str(len(analysis.architectures[name].table.rows))
        rows.append([escape(name), *values, *exponents, *quality, count])
    return html_table(head, rows)


def holdouts(analysis: StudyAnalysis) -> str:
    """How well a law fitted below each budget predicted the runs above it."""
    head = ["", "fitted up to", "on runs", "runs predicted", "up to", "mean error", "in interval"]
    rows = [
        [
            escape(name),
            f"{power(cut.flops)} FLOPs",
            str(cut.fitted),
            str(len(cut.rows)),
            f"{number(cut.extrapolation, 2)}×",
            f"{cut.mean_error:.2%}",
            f"{cut.covered:.0%}",
        ]
        for name, part in analysis.architectures.items()
        for cut in part.cuts
    ]
    return html_table(head, rows)


def forecasts(study_folder: Path) -> str:
    """The register of forecasts, each beside what came of it."""
    head = ["", "FLOPs", "parameters", "tokens", "forecast loss", "measured", "error", "inside"]
    rows = []
    for path in sorted((study_folder / "forecasts").glob("*.jsonl")):
        name = escape(path.stem)
        try:
            register = read_register(path.read_text(encoding="utf-8"))
        except AnalysisError as error:
            rows.append([name, escape(str(error)), *[""] * (len(head) - 2)])
            continue
        rows += [[name, *_forecast(frozen)] for frozen in register]
    return html_table(head, rows)


def _forecast(frozen: Forecast) -> list[str]:
    found = frozen.score
    scored = [DASH] * 3
    if found:
        scored = [f"{found.loss:.4f}", f"{found.error:+.2%}", "yes" if found.inside else "no"]
    return [
        power(frozen.target["flops"]),
        number(frozen.target["params"], 3),
        number(frozen.target["tokens"], 3),
        estimate(Estimate(frozen.loss, frozen.low, frozen.high), 4),
        *scored,
    ]


def conventions(analysis: StudyAnalysis) -> str:
    """The exponent a by the way that parameters are counted."""
    rows = [
        [
            escape(name),
            CONVENTIONS.get(counted, counted),
            estimate(exponents.get("approach3")),
            estimate(exponents.get("approach2")),
        ]
        for name, part in analysis.architectures.items()
        for counted, exponents in part.conventions.items()
    ]
    return html_table(["", "N counts", "a, fit", "a, profiles"], rows, left=2)


def left_out(analysis: StudyAnalysis, plan: Plan, frame: pd.DataFrame) -> str:
    """Runs that no fit used and points that were not planned, each with its rule."""
    excluded = [
        [_run(frame, each.row), escape(f"{each.rule}{_reason(frame, each.row)}")]
        for each in analysis.excluded
    ]
    skipped = [
        [f"{escape(s.architecture)}, {power(s.budget)} FLOPs, {number(s.params)}", escape(s.detail)]
        for s in plan.skipped
    ]
    return html_table(["run or point", "left out because"], [*excluded, *skipped], left=2)


def cost(frame: pd.DataFrame) -> str:
    """What was spent, by architecture."""
    head = ["", "runs", "finished", "FLOPs", "tokens", "training time", "tokens/s", "MFU"]
    return html_table(head, [*_costs(frame), _cost("all", frame)])


def _costs(frame: pd.DataFrame) -> Iterable[list[str]]:
    for name, group in frame.groupby("architecture"):
        yield _cost(str(name), group)


def _cost(name: str, frame: pd.DataFrame) -> list[str]:
    ended = frame[frame["status"] == "finished"]
    own = ended["own_flops"] / ended["flops"]  # of a branch: without what its trunk took
    seconds, tokens = float(ended["train_seconds"].sum()), float((ended["tokens"] * own).sum())
    return [
        escape(name),
        str(len(frame)),
        str(len(ended)),
        power(float(ended["own_flops"].sum()), 3) if len(ended) else DASH,
        number(tokens, 3),
        duration(seconds),
        number(tokens / seconds, 3) if seconds else DASH,
        f"{ended['mfu'].mean():.0%}" if present(ended["mfu"].mean()) else DASH,
    ]


def runs(frame: pd.DataFrame) -> str:
    """Every run."""
    head = ["run", "status", "parameters", "tokens", "steps", "learning rate", "loss", "bits/byte"]
    rows = [
        [
            escape(str(run["run"])),
            escape(str(run["status"])),
            number(run["params"], 3),
            number(run["tokens"], 3),
            str(run["steps"]),
            f"{run['learning_rate']:.3g}",
            f"{run['loss']:.4f}" if present(run["loss"]) else DASH,
            f"{run['bits_per_byte']:.4f}" if present(run["bits_per_byte"]) else DASH,
        ]
        for run in frame.to_dict("records")
    ]
    return html_table(head, rows, left=2)


def _run(frame: pd.DataFrame, row: int) -> str:
    return escape(str(frame.iloc[row]["run"]))


def _reason(frame: pd.DataFrame, row: int) -> str:
    """What the run itself said of its end, if anything."""
    reason = frame.iloc[row].get("reason")
    return f" ({reason})" if present(reason) and reason else ""


def _plain(value: float, digits: int) -> str:
    return number(value, digits) if abs(value) >= 1000 else f"{value:.{digits}g}"


def _end(value: float, digits: int) -> str:
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "−∞"
    return _plain(value, digits)
