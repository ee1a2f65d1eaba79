"""A study's MLflow experiment: one flat run per training run, and one per fit, report, comparison.

MLflow is where people look, never where the truth is: what it is told comes from files on disk and
can be told again. Importing it takes seconds, so nothing here does before it must.
"""

from __future__ import annotations

import json
import logging
import math
import os
import posixpath
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from launch.config import RunConfig
from pipeline.chart_view import TAG, view_tag
from pipeline.fit_record import digest, fit_record, law_files, law_tags
from pipeline.outbox import Owed, Sample, is_settled, owed
from pipeline.record import Record
from pipeline.run_facts import final_samples, params, tags
from pipeline.sent import SentRun, SentStudy
from pipeline.store import ENVIRONMENT, database_file, default_uri, is_server

LONGEST_NAME = 250
LOGGED = {"alembic": logging.WARNING, "mlflow": logging.WARNING, "urllib3": logging.ERROR}
"""An outage is told by the forwarder, once, and not by every attempt to connect."""
STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "diverged": "FAILED",
    "failed": "FAILED",
    "preempted": "KILLED",
    "cancelled": "KILLED",
}


class Tracker:
    """The experiment of one study in the store at ``uri``; by default SQLite in the study's folder.

    ``artifacts`` is a URI for files (a folder, a bucket), fixed when the experiment is made.

    For one process only, which creates the database: two that do so at once leave it unusable. What
    sends raises what MLflow raises; in `pipeline.forwarder` an outage is no failure.
    """

    def __init__(
        self, uri: str | None, study_folder: Path, study: str, artifacts: str | None = None
    ) -> None:
        self.uri = uri or default_uri(study_folder)
        self.folder = study_folder
        self.study = study
        self._artifacts = artifacts
        self._sent = SentStudy.read(study_folder)

    def has_run(self, run: Path) -> bool:
        """Whether the store has the whole journal in the folder ``run``, told without MLflow."""
        return self._is_known and is_settled(run, self._sent.store)

    def has_record(self, record: Record) -> bool:
        """Whether the store has ``record``, told without MLflow."""
        return self._is_known and self._sent.records.get(record.name) == record.fingerprint

    def forward(self, run: Path, config: RunConfig) -> None:
        """Send what the journal in the folder ``run`` owes; sending again changes nothing."""
        sent = SentRun.read(run)
        if sent.store != self.store:
            sent = SentRun(self.store, self._find(config.name, config.fingerprint()))
        update = owed(run, sent)
        if update.sent == sent:
            return
        facts: Mapping[str, str] = {}
        if not sent.offset:  # nothing was sent before, or nobody knows how much
            run_id = sent.run_id or self._create_run(config, update)
            update.sent = replace(update.sent, run_id=run_id)
            self._log_files(run_id, config)
            facts = params(config)
        if update.ended:
            update.samples += final_samples(config, update.ended)
        self._send(update, facts)
        update.sent.write(run)

    def log(self, record: Record) -> None:
        """Make ``record`` a run, unless it is one; earlier ones of its name become superseded."""
        if not self.has_record(record):
            self._write(record)
            self._remember(record)

    def log_fit(self, architecture: str, part: Mapping[str, Any]) -> None:
        """Record one architecture's part of an analysis, and register its law if it has one.

        The model is called ``<study>-<architecture>``; a new version is made only of another fit.
        """
        record = fit_record(architecture, part, self.folder)
        if self.has_record(record):
            return
        run_id = self._write(record)
        if part["approach3"] and part["approach3"]["identifiable"]:
            from pipeline.law_model import register

            files = law_files(architecture, self.folder)
            about = {"fingerprint": digest(files["fit"].read_text()), **law_tags(part)}
            register(self.client, f"{self.study}-{architecture}", run_id, files, about)
            self._tell_excess(architecture, part["approach3"]["parameters"].get("E", 0.0))
        self._remember(record)

    def _write(self, record: Record) -> str:
        run_id = self._find(record.name, record.fingerprint) or self._create_record(record)
        samples = [Sample(key, value, 0, 0) for key, value in record.metrics.items()]
        self._batch(run_id, samples, record.params)
        for path in record.artifacts:
            self.client.log_artifact(run_id, str(path))
        self.client.update_run(run_id, status="FINISHED")
        for run in list(self._search(f"tags.run = '{record.name}' and tags.status = 'finished'")):
            self.client.set_tag(run.info.run_id, "status", "superseded")
        self.client.set_tag(run_id, "status", "finished")
        return run_id

    def _remember(self, record: Record) -> None:
        known = self._sent.records
        self._sent = SentStudy(self.store, {**known, record.name: record.fingerprint})
        self._sent.write(self.folder)

    @cached_property
    def client(self) -> Any:
        """MLflow's client; the first use imports MLflow, and makes or migrates the database."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name, level in LOGGED.items():
            logging.getLogger(name).setLevel(level)

        self.folder.mkdir(parents=True, exist_ok=True)
        if (database := database_file(self.uri)) and not database.exists():
            _create(database)
        return MlflowClient(self.uri, self.uri)

    @cached_property
    def experiment_id(self) -> str:
        found = self.client.get_experiment_by_name(self.study)
        if found is None:
            return str(self.client.create_experiment(self.study, self._artifact_root))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    @cached_property
    def store(self) -> str:
        """How state files know this experiment; made anew, or in another store, it is another."""
        experiment = self.client.get_experiment(self.experiment_id)
        if TAG not in experiment.tags:
            kind = "custom_model_development"  # without which its pages are those for prompts
            self.client.set_experiment_tag(self.experiment_id, "mlflow.experimentKind", kind)
            self.client.set_experiment_tag(
                self.experiment_id, TAG, view_tag(experiment.creation_time)
            )
        store = f"{self._uri_digest}-{experiment.experiment_id}-{experiment.creation_time}"
        if store != self._sent.store:
            self._sent = SentStudy(store)
            self._sent.write(self.folder)
        return store

    @property
    def _artifact_root(self) -> str | None:
        """Where files go: as asked, as a server decides, or into the study's folder."""
        if self._artifacts or is_server(self.uri):
            return self._artifacts
        return (self.folder.absolute() / "artifacts").as_uri()

    @property
    def _uri_digest(self) -> str:
        return digest(self.uri)[:12]

    @property
    def _is_known(self) -> bool:
        """Whether the store last sent to is this one, and there, as far as the disk can tell."""
        database = database_file(self.uri)
        is_there = database is None or database.exists()
        return is_there and self._sent.store.startswith(self._uri_digest)

    def _search(self, condition: str) -> Iterator[Any]:
        token = ""
        while token is not None:
            page = self.client.search_runs([self.experiment_id], condition, page_token=token)
            yield from page
            token = page.token

    def _find(self, name: str, fingerprint: str) -> str:
        """The id of the run of this name and content; empty if there is none."""
        found = self._search(f"tags.run = '{name}' and tags.fingerprint = '{fingerprint}'")
        return next((str(run.info.run_id) for run in found), "")

    def _create_run(self, config: RunConfig, update: Owed) -> str:
        about, update.tags = tags(config) | update.tags, {}
        run = self.client.create_run(self.experiment_id, update.started, about, config.name)
        return str(run.info.run_id)

    def _create_record(self, record: Record) -> str:
        about = {"kind": record.kind, "run": record.name, "fingerprint": record.fingerprint}
        about |= {"mlflow.note.content": record.note, **record.tags}
        run = self.client.create_run(self.experiment_id, tags=about, run_name=record.name)
        return str(run.info.run_id)

    def _tell_excess(self, architecture: str, floor: float) -> None:
        """Each run's loss above the fitted floor E, as the logarithm in which the law is a line."""
        runs = f"tags.kind = 'train' and tags.architecture = '{architecture}'"
        now = round(time.time() * 1000)  # of several floors the last one told counts
        for run in list(self._search(f"{runs} and tags.status = 'finished'")):
            excess = run.data.metrics.get("heldout_loss", math.nan) - floor
            if excess > 0:
                sample = Sample("log10_loss_minus_E", math.log10(excess), now, 0)
                self._batch(run.info.run_id, [sample])

    def _log_files(self, run_id: str, config: RunConfig) -> None:
        """What the run trains and is judged on, and its configuration."""
        from mlflow.data.dataset_source_registry import get_dataset_source_from_json
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        digest = config.data.fingerprint[:36]
        stores = {"training": config.data.train, "evaluation": config.data.heldout}
        inputs = []
        for context, path in stores.items():
            source = get_dataset_source_from_json(json.dumps({"uri": str(path)}), "local")
            name = "/".join(path.parts[-2:])  # of one name and digest MLflow makes one data set
            dataset = MetaDataset(source, name, digest)
            tag = InputTag("mlflow.data.context", context)
            inputs.append(DatasetInput(dataset._to_mlflow_entity(), [tag]))
        self.client.log_inputs(run_id, inputs)
        self.client.log_text(run_id, config.model_dump_json(indent=1), "config.json")

    def _send(self, update: Owed, facts: Mapping[str, str]) -> None:
        """A run that someone deleted in MLflow stays deleted, and is owed nothing."""
        from mlflow.exceptions import MlflowException

        try:
            self._send_to_active(update, facts)
        except MlflowException:
            if self.client.get_run(update.sent.run_id).info.lifecycle_stage != "deleted":
                raise

    def _send_to_active(self, update: Owed, facts: Mapping[str, str]) -> None:
        run_id = update.sent.run_id
        self._batch(run_id, update.samples, facts, update.tags)
        if update.ended:
            self.client.set_terminated(run_id, STATUS[update.status], update.ended.time)
        elif update.tags:  # another attempt
            self.client.update_run(run_id, status=STATUS[update.status])

    def _batch(
        self,
        run_id: str,
        samples: Sequence[Sample] = (),
        params: Mapping[str, str] = {},
        tags: Mapping[str, str] = {},
    ) -> None:
        """Log these in as few requests as MLflow allows; what is there already is not doubled."""
        from mlflow.entities import Metric, Param, RunTag

        from pipeline import bulk

        named = [sample._replace(key=_metric_name(sample.key)) for sample in samples]
        if bulk.takes(self._engine):
            bulk.insert(self._engine, run_id, named, params)
            named, params = [], {}
        self.client.log_batch(
            run_id,
            [Metric(*sample) for sample in named],
            [Param(key, value) for key, value in params.items()],
            [RunTag(key, value) for key, value in tags.items()],
        )

    @property
    def _engine(self) -> Any:
        """That of the database, if the store is one."""
        return getattr(self.client._tracking_client.store, "engine", None)


def _create(database: Path) -> None:
    """Make MLflow's file elsewhere and move it to its place when it is whole: MLflow takes many
    steps, and never again takes a file that was left between two of them."""
    from mlflow import MlflowClient

    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=database.parent) as folder:
        made = Path(folder) / database.name
        client: Any = MlflowClient(default_uri(made.parent, made.name))
        client.search_experiments(max_results=1)
        client._tracking_client.store.engine.dispose()
        made.replace(database)


def _metric_name(key: str) -> str:
    """MLflow takes letters, digits and ``_-. :/`` alone, and no path that could be shorter."""
    name = posixpath.normpath(re.sub(r"[^\w\-. :/]", "_", key)).lstrip("./")
    return name[:LONGEST_NAME] or "_"
