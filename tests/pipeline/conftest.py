import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from launch.config import RunConfig
from launch.journal import Journal
from pipeline.cli import main


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow store for all tests, each with a study of its own: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """`isoflop` with these arguments: its exit code, what it printed and what it complained of."""

    def call(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["isoflop", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return ended.value.code, shown.out, shown.err

    return call


@pytest.fixture
def run_config() -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "dense",
            "model": {"width": 32, "n_layers": 2},
            "data": {
                "train": Path("/cache/tokens/stdlib/train"),
                "heldout": Path("/cache/tokens/stdlib/heldout"),
                "fingerprint": "f" * 64,
                "sequence_length": 128,
                "batch_size": 8,
            },
            "train": {"steps": 100, "optimizer": {"learning_rate": 0.01}},
            "cost": {
                "params": {"total": 900, "active": 900, "non_embedding": 500, "compute": 700},
                "training_flops_per_token": 4200.0,
            },
            "labels": {
                "architecture": "dense",
                "budget": 1e12,
                "seed": 0,
                "params": 700,
                "unique_tokens": 10**6,
            },
        }
    )


@pytest.fixture
def attempt(tmp_path: Path, run_config: RunConfig) -> Callable[..., Path]:
    """Append one attempt to the journal of ``runs/<name>/`` and return that folder."""

    def append(
        name: str = "dense",
        steps: Iterable[int] = range(10, 101, 10),
        end: str | None = "finished",
        resumed_from: int | None = None,
        reason: str = "",
        **values: Any,
    ) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        run_config.model_copy(update={"name": name}).write(folder / "config.json")
        last = 0
        with Journal(folder / "journal.jsonl") as journal:
            journal.begin(resumed_from=resumed_from, world=1, device="cpu", versions={})
            for last in steps:
                journal.append({"kind": "step", **_progress(last), **_point(last), **values})
            if end:
                scores = {"loss": 3.1, "bits_per_byte": 1.7}
                journal.append({"kind": "eval", **_progress(last), **scores})
                journal.append({"kind": "end", "step": last, "status": end, "reason": reason})
        return folder

    return append


def _progress(step: int) -> dict[str, Any]:
    return {"step": step, "tokens": step * 1024, "flops": step * 1024 * 4200.0}


def _point(step: int) -> dict[str, Any]:
    curves = {"loss": 3 + 1 / step, "learning_rate": 0.01, "grad_norm": 1.0}
    return curves | {"tokens_per_second": 1e4, "mfu": 0.4, "aux": {"balance": 0.1}}
