"""A fitted law as an MLflow model: compute in; the optimal model, its data and its loss out.

MLflow copies this file and the package `analysis` into the model, so that it predicts as fitted
wherever it is loaded, with nothing else of this project installed and whatever becomes of the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel
from mlflow.types.schema import AnyType, ColSpec, Schema

import analysis
from analysis.result import Allocation, Fit

ESTIMATES = ("params", "tokens", "tokens_per_param", "loss")
NEEDS = ("mlflow", "numpy", "pandas", "scipy")
DESCRIPTION = "Training FLOPs in a column `flops`; out come N*, D* and the loss, with intervals."
HOLDOUT = "holdout_error"
EXAMPLE = pd.DataFrame({"flops": [1e15, 1e18]})


class LawModel(PythonModel):  # type: ignore[misc]
    """`predict` takes a column `flops` (training FLOPs, any type of number), a row for each answer.

    Columns out: flops; params, tokens, tokens_per_param and loss (nats per token), each with its
    `_low` and `_high`; extrapolation (times the largest compute fitted); warnings.
    """

    def load_context(self, context: Any) -> None:
        self.fit = Fit.from_json(Path(context.artifacts["fit"]).read_text(encoding="utf-8"))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        return pd.DataFrame([_row(self.fit.allocate(float(c))) for c in model_input["flops"]])


def _row(allocation: Allocation) -> dict[str, Any]:
    row: dict[str, Any] = {"flops": allocation.flops}
    for name in ESTIMATES:
        estimate = getattr(allocation, name)
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    warnings = "; ".join(notice.message for notice in allocation.notices)
    return row | {"extrapolation": allocation.extrapolation, "warnings": warnings}


def register(
    client: Any, name: str, run_id: str, files: Mapping[str, Path], tags: Mapping[str, str]
) -> int:
    """The version of the model `name` that predicts by `files["fit"]`, the JSON of a `Fit`.

    It is the newest version if that has the same `fingerprint` among its tags, or else one made
    now, with all the files in it. The alias `best-holdout` goes to the version of the least
    `holdout_error`, if any has one.
    """
    versions = _versions(client, name)
    newest = max(versions, key=lambda each: int(each.version), default=None)
    if newest and newest.tags.get("fingerprint") == tags["fingerprint"]:
        return int(newest.version)
    model_id = _log(client, run_id, files)
    made = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run_id,
        model_id=model_id,
        tags=dict(tags),
        description=DESCRIPTION,
    )
    scored = [each for each in (*versions, made) if HOLDOUT in each.tags]
    if scored:
        best = min(scored, key=lambda each: float(each.tags[HOLDOUT]))
        client.set_registered_model_alias(name, "best-holdout", best.version)
    return int(made.version)


def _versions(client: Any, name: str) -> list[Any]:
    """Every version; where there is no such model, it is made."""
    try:
        client.create_registered_model(name)
    except MlflowException:
        return list(client.search_model_versions(f"name = '{name}'"))
    return []


def _log(client: Any, run_id: str, files: Mapping[str, Path]) -> str:
    """Log the model under a run and return its id."""
    mlflow.set_tracking_uri(client.tracking_uri)
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="law",
            python_model=__file__,
            artifacts={name: str(path) for name, path in files.items()},
            code_paths=[str(Path(analysis.__file__).parent)],
            signature=signature(),
            input_example=EXAMPLE,
            pip_requirements=[f"{package}=={version(package)}" for package in NEEDS],
        )
    return str(logged.model_id)


def signature() -> ModelSignature:
    """`flops` is of any type, since MLflow refuses a column of integers for a double."""
    ends = ("", "_low", "_high")
    numbers = ["flops", *(f"{name}{end}" for name in ESTIMATES for end in ends), "extrapolation"]
    outputs = [ColSpec("double", name) for name in numbers] + [ColSpec("string", "warnings")]
    return ModelSignature(Schema([ColSpec(AnyType(), "flops")]), Schema(outputs))


set_model(LawModel())
