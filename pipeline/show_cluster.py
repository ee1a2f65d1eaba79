"""Jobs and nodes of a cluster on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.table import Table

from pipeline.submit import Job

STYLE = {"running": "cyan", "finished": "green", "failed": "red", "stopped": "yellow"}


def job_table(jobs: Iterable[Job]) -> Table:
    """A line for each job, the oldest first."""
    table = _table("study", "job", "state", "began", "note")
    for job in jobs:
        began = datetime.fromtimestamp(job.began, UTC) if job.began else None
        table.add_row(
            job.submission.study,
            job.submission.id,
            f"[{STYLE.get(job.state, 'dim')}]{job.state}[/]",
            f"{began:%Y-%m-%d %H:%M} UTC" if began else "",
            job.note,
        )
    return table


def node_table(nodes: Iterable[Mapping[str, Any]]) -> Table:
    """A line for each node of a Ray cluster, the head first."""
    table = _table("node", "address", "state", "CPUs", "GPUs", "memory")
    for node in sorted(nodes, key=lambda node: not node["is_head_node"]):
        total = node["resources_total"]
        table.add_row(
            node["node_id"][:12] + (" head" if node["is_head_node"] else ""),
            node["node_ip"],
            "[green]alive[/]" if node["state"] == "ALIVE" else f"[red]{node['state'].lower()}[/]",
            f"{total.get('CPU', 0):g}",
            f"{total.get('GPU', 0):g}",
            f"{total.get('memory', 0) / 2**30:.0f} GiB",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
