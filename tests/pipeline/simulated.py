"""A whole study in seconds: real plan, scheduler, journals and fits; only training is made up."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import pytest

from data.prepare import prepare
from launch.config import ParallelConfig, RunConfig
from launch.journal import FILE, Journal
from pipeline import ready, training
from pipeline import study as driver
from pipeline.config import Study, fingerprint, load_study
from pipeline.machine import Machine
from pipeline.runs import run_flops, run_tokens
from pipeline.sweep import Sweep

SECONDS = 60.0
"""What each run takes."""


@dataclass
class Clock:
    """Time that passes while runs are waited for."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@dataclass(frozen=True)
class Outcome:
    status: str = "finished"
    reason: str = ""
    is_worker_sound: bool = True
    step: int = 0


@dataclass
class Gang:
    """Trains nothing, and writes the journal of a run whose loss follows a law."""

    parallel: ParallelConfig
    epoch: int | None = None
    until: float = field(default=0.0, init=False)
    is_placed: bool = field(default=True, init=False)

    def submit(self, config: RunConfig, folder: Path) -> None:
        self.config, self.folder, self.until = config, folder, CLOCK.now + SECONDS
        folder.mkdir(parents=True, exist_ok=True)
        config.write(folder / "config.json")

    def finish(self) -> Outcome:
        params, tokens = float(self.config.labels["params"]), run_tokens(self.config)
        noise = 1 + 0.02 * Random(self.config.fingerprint()).uniform(-1, 1)
        loss = (1.7 + 40 / params**0.34 + 300 / tokens**0.4) * noise
        done = {"step": self.config.train.steps, "tokens": tokens, "flops": run_flops(self.config)}
        done["loss"] = loss
        with Journal(self.folder / FILE) as journal:
            journal.begin(world=1)
            rates = {"learning_rate": 0.01, "grad_norm": 1.0, "tokens_per_second": 1e4, "mfu": 0.4}
            journal.append({"kind": "step", **rates, **done})
            journal.append({"kind": "eval", "bits_per_byte": loss / 3, **done})
            journal.append(
                {
                    "kind": "end",
                    "step": done["step"],
                    "status": "finished",
                    "train_seconds": SECONDS,
                }
            )
        return Outcome()

    def stop(self) -> None:
        self.until = 0.0

    def close(self) -> None:
        pass


def wait_any(gangs: list[Gang], timeout: float) -> list[tuple[Gang, Outcome]]:
    CLOCK.now = max(CLOCK.now, min(gang.until for gang in gangs))
    return [(gang, gang.finish()) for gang in gangs if gang.until <= CLOCK.now]


class Nowhere:
    """In place of what feeds MLflow."""

    def __init__(self, *_: object) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def simulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let studies train nothing from here on."""
    from launch import gang

    monkeypatch.setattr(gang, "Gang", Gang)
    monkeypatch.setattr(gang, "wait_any", wait_any)
    monkeypatch.setattr(training, "Sweep", partial(Sweep, clock=CLOCK))
    monkeypatch.setattr(Machine, "start", lambda self: None)
    monkeypatch.setattr(training, "Forwarder", Nowhere)
    monkeypatch.setattr("analysis.plots.write", lambda *_: None)
    monkeypatch.setattr(driver, "publish", lambda *_: None)
    monkeypatch.setattr(driver, "send", lambda *_: None)
    monkeypatch.setattr(
        ready,
        "expected_seconds",
        lambda study, plan, *_: ({run.fingerprint(): SECONDS for run in plan.runs}, ""),
    )


def small_study(folder: Path, *overrides: str) -> Study:
    """A study of three budgets of five sizes, its corpus prepared."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number in range(40):
        (corpus / f"{number}.txt").write_text(f"some words of text number {number} go on\n" * 50)
    study = load_study(
        "quickstart",
        [
            "name=small",
            f"output={folder}/out",
            f"corpus={{name: texts, source: {{kind: text, path: {corpus}}}, heldout: 0.2}}",
            "tokenizer={kind: bpe, vocab_size: 300}",
            "architectures={dense: {recipe: llama}}",
            "grid={type: isoflop, budgets: [1e8, 3e8, 1e9], sizes: 5, min_steps: 1, max_epochs: 1e4}",
            "fit={resamples: 100}",
            *overrides,
        ],
    )
    prepare(study.corpus, study.tokenizer, study.cache, 0)
    key = [study.corpus.model_dump(mode="json"), study.tokenizer.model_dump(mode="json")]
    study.folder.mkdir(parents=True)
    (study.folder / "prepared").write_text(fingerprint(key))
    return study
