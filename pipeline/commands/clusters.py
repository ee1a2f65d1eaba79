"""Clusters: ``submit``, ``resume``, ``jobs``, ``logs``, ``cancel``, and ``cluster`` itself."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import (
    ClusterOption,
    DebugOption,
    JsonOption,
    Overrides,
    StudyArgument,
    app,
    console,
    print_json,
    study_name,
)
from pipeline.errors import IsoflopError

if TYPE_CHECKING:
    from pipeline.cluster_file import Cluster
    from pipeline.package import Package
    from pipeline.submit import Job, Scheduler

PANEL = "On a cluster"
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Print on until the job ends.")]
cluster_app = typer.Typer(
    no_args_is_help=True,
    help="A Ray cluster of several nodes on this machine: `up`, `down`; what any has: `show`.",
    epilog="Example: isoflop cluster up --local 3, then isoflop submit quickstart --cluster local",
)
app.add_typer(cluster_app, name="cluster", rich_help_panel=PANEL)


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: isoflop submit quickstart --cluster configs/clusters/lab.yaml",
)
def submit(
    study: StudyArgument,
    cluster: ClusterOption,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the job's script or manifest instead.")
    ] = False,
    follow: FollowOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Send a study to a cluster as one job; the same submission again is the same job."""
    from pipeline.submit import Submission
    from pipeline.submit import submit as send

    package, jobs = _package(study, overrides, cluster, dry_run)
    if dry_run:
        submission = Submission(package.study.name, package.fingerprint, 1)
        sys.stdout.write(jobs.text(package, submission))
        return
    _tell(package, jobs, *send(package, jobs), cluster, follow, as_json)


@app.command(
    rich_help_panel=PANEL, epilog="Example: isoflop resume quickstart --cluster lab --follow"
)
def resume(
    study: StudyArgument,
    cluster: ClusterOption,
    overrides: Overrides = None,
    follow: FollowOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Go on with a study whose job was cancelled, failed or is to be done again."""
    from pipeline.submit import resume as send

    package, jobs = _package(study, overrides, cluster)
    _tell(package, jobs, *send(package, jobs), cluster, follow, as_json)


@app.command(rich_help_panel=PANEL, epilog="Example: isoflop jobs --cluster lab")
def jobs(cluster: ClusterOption, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """The jobs that were sent to a cluster, and what became of them."""
    from pipeline.show_cluster import job_table

    found = _reach(cluster)[1].all()
    if as_json:
        print_json([_as_dict(job) for job in found])
    else:
        console().print(job_table(found))


@app.command(
    rich_help_panel=PANEL, epilog="Example: isoflop logs quickstart --cluster lab --follow"
)
def logs(
    study: StudyArgument,
    cluster: ClusterOption,
    overrides: Overrides = None,
    follow: FollowOption = False,
    debug: DebugOption = False,
) -> None:
    """What the job of a study has printed."""
    from pipeline.submit import latest

    name, jobs = _find(study, overrides, cluster)
    _print_logs(jobs, latest(jobs, name), follow)


@app.command(rich_help_panel=PANEL, epilog="Example: isoflop cancel quickstart --cluster lab")
def cancel(
    study: StudyArgument,
    cluster: ClusterOption,
    overrides: Overrides = None,
    patience: Annotated[
        float, typer.Option("--patience", min=0, help="Seconds to wait for its runs to save.")
    ] = 150.0,
    debug: DebugOption = False,
) -> None:
    """End the job of a study; its runs save their state, and `isoflop resume` goes on."""
    from pipeline.submit import cancel as stop

    name, jobs = _find(study, overrides, cluster)
    job = stop(jobs, name, patience)
    console().print(f"{name}: {job.submission.id} is {job.state}", markup=False)


LocalArgument = Annotated[
    str, typer.Argument(metavar="[CLUSTER]", help="A cluster file of kind local, or its name.")
]


@cluster_app.command(epilog="Example: isoflop cluster up --local 2 --cpus 1")
def up(
    cluster: LocalArgument = "local",
    local: Annotated[
        int | None, typer.Option("--local", min=1, max=64, help="Nodes (default: the file's).")
    ] = None,
    cpus: Annotated[
        int | None, typer.Option("--cpus", min=1, help="CPUs of each (default: the file's).")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, help="GPUs of each (default: the file's).")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Start a Ray cluster of several nodes on this machine: on loopback, behind a token."""
    from launch.local_cluster import up as start
    from pipeline.cluster_file import LocalCluster, load_cluster
    from pipeline.ray_jobs import state_folder

    described = load_cluster(cluster)
    if not isinstance(described, LocalCluster):
        raise IsoflopError(f"cluster up: given a cluster of kind {described.kind}, allowed: local")
    say = partial(console().print, markup=False)
    found = start(
        state_folder(),
        local or described.nodes,
        cpus or described.cpus_per_node,
        Path(described.shared),
        described.gpus_per_node if gpus is None else gpus,
        Path(described.scratch) if described.scratch else None,
        say,
    )
    say(f"dashboard: {found.dashboard}   token: {found.token_file}")
    say(f"`isoflop submit STUDY --cluster {cluster}` runs there; `isoflop cluster down` ends it")


@cluster_app.command(epilog="Example: isoflop cluster down")
def down(debug: DebugOption = False) -> None:
    """End the cluster that `isoflop cluster up` started, and nothing else."""
    from launch.local_cluster import down as end
    from pipeline.ray_jobs import state_folder

    console().print(f"ended {end(state_folder())} processes", markup=False)


@cluster_app.command(epilog="Example: isoflop cluster show lab")
def show(
    cluster: Annotated[
        str,
        typer.Argument(metavar="[CLUSTER]", envvar="ISOFLOP_CLUSTER", help="Kind local or ray."),
    ] = "local",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """The nodes of a running cluster: where they are, whether they live, what they have."""
    from launch.jobs import Jobs
    from pipeline.cluster_file import LocalCluster, RayCluster, load_cluster
    from pipeline.ray_jobs import door
    from pipeline.show_cluster import node_table

    described = load_cluster(cluster)
    if not isinstance(described, LocalCluster | RayCluster):
        raise IsoflopError(f"cluster show: given kind {described.kind}, allowed: local, ray")
    nodes = Jobs(*door(described)).nodes()
    if as_json:
        print_json(nodes)
    else:
        console().print(node_table(nodes))


def _reach(cluster: str, only_to_print: bool = False) -> tuple[Cluster, Scheduler]:
    """A cluster and who takes its jobs, who keeps those of Slurm in the shared folder."""
    from pipeline.cluster_file import check_shared
    from pipeline.ray_jobs import cluster_at
    from pipeline.submit import scheduler

    described = cluster_at(cluster)
    jobs = scheduler(described)
    if described.kind in ("local", "slurm") and not only_to_print:
        check_shared(described, cluster)
    return described, jobs


def _package(
    study: str, overrides: list[str] | None, cluster: str, only_to_print: bool = False
) -> tuple[Package, Scheduler]:
    """What the study names is looked at here if the cluster's shared folder is seen from here."""
    from pipeline.cluster_file import check_fit
    from pipeline.config import load_study
    from pipeline.kept import find_study
    from pipeline.package import Package

    described, jobs = _reach(cluster, only_to_print)
    is_here = Path(described.shared).is_dir()
    file = find_study(study, [described.shared, "studies"])
    loaded = load_study(file, overrides, check=is_here)
    check_fit(loaded, described)
    return Package.of(loaded, described), jobs


def _find(study: str, overrides: list[str] | None, cluster: str) -> tuple[str, Scheduler]:
    """The study's name, and who has its job."""
    return study_name(study, overrides), _reach(cluster)[1]


def _tell(
    package: Package,
    jobs: Scheduler,
    job: Job,
    is_new: bool,
    cluster: str,
    follow: bool,
    as_json: bool,
) -> None:
    if as_json:
        print_json(_as_dict(job) | {"is_new": is_new, "folder": str(package.study.folder)})
        return
    name, say = package.study.name, partial(console().print, markup=False)
    if is_new:
        say(f"{name}: submitted as {job.submission.id}, its folder is {package.study.folder}")
    else:
        say(f"{name}: is {job.submission.id} already, and {job.state} {job.note}".rstrip())
        if job.state in ("failed", "stopped"):
            say(f"`isoflop resume {name} -c {cluster}` goes on with it")
    if follow:
        _print_logs(jobs, job, True)
    elif job.state in ("waiting", "running"):
        shown = f"`isoflop logs {name} -c {cluster} --follow`"
        say(f"{shown} shows what it does; this terminal may be closed")


def _print_logs(jobs: Scheduler, job: Job, follow: bool) -> None:
    for text in jobs.logs(job.submission, follow):
        sys.stdout.write(text)
        sys.stdout.flush()


def _as_dict(job: Job) -> dict[str, object]:
    submission = job.submission
    told = {"id": submission.id, "state": job.state, "note": job.note, "began": job.began}
    return {**submission.labels(), **told}
