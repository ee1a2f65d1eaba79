"""A run's params and the points of its curves into MLflow's database, in one transaction.

MLflow's own store takes each point through several objects and waits for the disk several times a
run: minutes for what takes seconds here. This knows three tables of its schema (3.17) and leaves in
them what the store would; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Engine, column, table, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.outbox import Sample

INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
FIELDS = ("run_uuid", "key", "value", "timestamp", "step", "is_nan")
ORDER = ("step", "timestamp", "value")
POINTS = table("metrics", *map(column, FIELDS))
LATEST = table("latest_metrics", *map(column, FIELDS))
PARAMS = table("params", *map(column, ("run_uuid", "key", "value")))


def takes(engine: Engine | None) -> bool:
    """Whether this is a database that `insert` knows the language of."""
    return engine is not None and engine.dialect.name in INSERT


def insert(
    engine: Engine, run_id: str, samples: Iterable[Sample], params: Mapping[str, str]
) -> None:
    """Add finite values to a run that is there; what it has already is not doubled."""
    make = INSERT[engine.dialect.name]
    rows = [dict(zip(FIELDS, (run_id, *sample, False), strict=True)) for sample in samples]
    newest = {row["key"]: row for row in sorted(rows, key=lambda row: [row[k] for k in ORDER])}
    facts = [{"run_uuid": run_id, "key": key, "value": value} for key, value in params.items()]
    with engine.begin() as database:
        if facts:
            database.execute(make(PARAMS).on_conflict_do_nothing(), facts)
        if rows:
            database.execute(make(POINTS).on_conflict_do_nothing(), rows)
            database.execute(_if_newer(make(LATEST)), list(newest.values()))


def _if_newer(statement: Any) -> Any:
    """The newest value of a metric is that of the last step, at the latest time."""
    new, old = statement.excluded, LATEST.c
    return statement.on_conflict_do_update(
        index_elements=["key", "run_uuid"],
        set_={name: new[name] for name in ("value", "timestamp", "step", "is_nan")},
        where=tuple_(*(new[name] for name in ORDER)) > tuple_(*(old[name] for name in ORDER)),
    )
