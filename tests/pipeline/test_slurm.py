"""The batch script: valid shell whatever the names, and a job's state from what it left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from launch.journal import read_run
from pipeline.cluster_file import SlurmCluster
from pipeline.config import load_study
from pipeline.errors import StudyError
from pipeline.package import Package
from pipeline.slurm import Slurm
from pipeline.submit import Submission, cancel, latest, resume, submit

STAND_INS = {
    "sbatch": """\
#!/bin/bash
# Takes the script that is the last argument, and starts it at once.
id=$((1000 + $(ls "$SLURM_STAND_IN" | grep -c script)))
cp "${@: -1}" "$SLURM_STAND_IN/$id.script"
run-script "$id"
echo "$id;cluster"
""",
    "run-script": """\
#!/bin/bash
# As Slurm would on the first node of the job.
script="$SLURM_STAND_IN/$1.script"
log=$(sed -n 's/^#SBATCH --output=//p' "$script")
SLURM_JOB_ID=$1 SLURM_JOB_NODELIST="node[0-1]" setsid bash "$script" >>"$log" 2>&1 </dev/null &
echo $! >"$SLURM_STAND_IN/$1.pid"
""",
    "squeue": """\
#!/bin/bash
for file in "$SLURM_STAND_IN"/*.pid; do
  [ -e "$file" ] && kill -0 "$(cat "$file")" 2>/dev/null && echo "$(basename "$file" .pid) RUNNING"
done
exit 0
""",
    "scancel": """\
#!/bin/bash
kill -TERM "$(cat "$SLURM_STAND_IN/${@: -1}.pid")"
""",
    "scontrol": """\
#!/bin/bash
if [ "$1" = show ]; then printf 'node0\nnode1\n'; exit; fi
pid=$(cat "$SLURM_STAND_IN/$2.pid")
(while kill -0 "$pid"; do sleep 0.05; done; run-script "$2") >/dev/null 2>&1 </dev/null &
""",
    "srun": '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n',
}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Slurm's commands, which run everything on this machine."""
    folder, state = tmp_path / "bin", tmp_path / "slurm"
    folder.mkdir()
    state.mkdir()
    for name, text in STAND_INS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STAND_IN", str(state))
    return state


def made(shared: Path, **more) -> tuple[Slurm, Package]:
    fields = {"nodes": 2, "cpus_per_node": 1, "time": "01:00:00", "shared": str(shared)} | more
    cluster = SlurmCluster(kind="slurm", **fields)
    return Slurm(cluster), Package.of(load_study("quickstart"), cluster)


def scripts(shared: Path, **more) -> list[str]:
    slurm, package = made(shared, **more)
    text = slurm.text(package, Submission("quickstart", package.fingerprint, 1))
    batch, _, node = text.partition("\n#!/bin/bash\n# One node")
    return [batch, f"#!/bin/bash\n# One node{node}"]


SHELLCHECK = Path(sys.executable).with_name("shellcheck")
CASES = [
    {},
    {"gpus_per_node": 4, "partition": "gpu", "account": "a-b", "scratch": "/local"},
    {"setup": ["module load cuda", "source /etc/profile"], "options": ["--exclusive", "--mem=0"]},
]


@pytest.mark.parametrize("case", CASES)
def test_the_scripts_are_shell(tmp_path, case):
    for text in scripts(tmp_path, **case):
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("case", CASES)
def test_the_scripts_are_good_shell(tmp_path, case):
    for text in scripts(tmp_path, **case):
        done = subprocess.run(
            [SHELLCHECK, "--exclude=SC1091,SC2329", "-"], input=text, capture_output=True, text=True
        )
        assert done.stdout == ""


def test_the_directives_say_what_the_cluster_file_says(tmp_path):
    batch = scripts(tmp_path, gpus_per_node=4, partition="gpu", options=["--mem=0"])[0]
    told = [line.removeprefix("#SBATCH ") for line in batch.splitlines() if "#SBATCH" in line]
    assert set(told) >= {
        "--nodes=2", "--cpus-per-task=1", "--gpus-per-node=4", "--partition=gpu", "--mem=0",
        "--time=01:00:00", "--requeue", "--signal=B:TERM@120",
    }  # fmt: skip
    assert batch.index("#SBATCH --signal") < batch.index("set -euo")


@pytest.fixture
def driver(slurm, tmp_path) -> str:
    """The Python of a job that waits for its end instead of training; nothing is left at its second
    start."""
    path = tmp_path / "bin" / "driver"
    path.write_text(DRIVER)
    path.chmod(0o755)
    (tmp_path / "shared").mkdir()
    return str(path)


DRIVER = """\
#!/bin/bash
case "$*" in
*secrets*) echo sesame ;;
*get_node_ip_address*) echo 127.0.0.1 ;;
*health-check*) ;;
*start*) exec sleep 60 ;;
*)
  trap 'echo saved; exit 130' TERM
  if [ -e ../begun ]; then is_over=1; fi
  touch ../begun
  echo "driver $*, TMPDIR=$TMPDIR"
  if [ "${is_over:-}" ]; then exit 0; fi
  sleep 60 &
  wait ;;
esac
"""


def test_a_job_is_submitted_once_stopped_and_gone_on_with(slurm, driver, tmp_path):
    jobs, package = made(tmp_path / "shared", python=driver)
    first, is_new = submit(package, jobs)
    assert is_new
    assert submit(package, jobs)[1] is False
    assert len(list(slurm.glob("*.pid"))) == 1
    folder = tmp_path / "shared/quickstart/jobs" / first.submission.id
    wait_for(lambda: "driver -m pipeline run study.yaml" in (folder / "log").read_text())
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert oct((folder / "token").stat().st_mode & 0o777) == "0o600"
    assert cancel(jobs, "quickstart", 10).state == "stopped"
    assert "saved" in "".join(jobs.logs(first.submission, follow=True))
    assert not (folder / "token").exists()
    again, is_new = resume(package, jobs)
    assert (again.submission.attempt, is_new) == (2, True)
    assert cancel(jobs, "quickstart", 10).state == "stopped"
    assert [job.state for job in jobs.all()] == ["stopped", "stopped"]


def test_a_job_whose_time_is_over_queues_itself_again(slurm, driver, tmp_path):
    """Slurm tells the script alone, two minutes before; nobody has cancelled it."""
    jobs, package = made(tmp_path / "shared", python=driver, scratch="/var/tmp")
    submission = submit(package, jobs)[0].submission
    log = tmp_path / "shared/quickstart/jobs" / submission.id / "log"
    wait_for(lambda: log.is_file() and "cluster.yaml, TMPDIR=/var/tmp" in log.read_text())
    os.kill(pid_of(slurm), signal.SIGTERM)
    wait_for(lambda: latest(jobs, "quickstart").state == "finished")
    assert log.read_text().count("driver -m pipeline run") == 2
    assert "the time is over: queueing this job again" in log.read_text()


def test_a_folder_that_a_node_does_not_see_is_named_before_anything_starts(slurm, driver, tmp_path):
    jobs, package = made(tmp_path / "shared", python=driver, scratch="/nowhere")
    submit(package, jobs)
    wait_for(lambda: jobs.all()[0].state == "failed")
    [job] = jobs.all()
    assert "/nowhere is not there or cannot be written" in job.note
    assert "see shared and scratch in the file of the cluster" in job.note


TINY = """\
name: tiny
corpus: {name: code, source: {kind: code, root: %(corpus)s}, heldout: 0.2}
tokenizer: {kind: bpe, vocab_size: 280}
architectures: {dense: {recipe: llama}}
grid: {type: isoflop, budgets: [2e8], sizes: 3, spread: 2, min_steps: 4, max_epochs: 1000}
rule: {name: constant, learning_rate: 0.01, batch_tokens: 128}
train: {sequence_length: 32, evaluations: 2, eval_tokens: 512, log_points: 10}
parallel: {ranks: 2}
fit: {resamples: 100}
"""


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_script_makes_two_raylets_a_cluster_and_runs_a_study_on_it(slurm, tmp_path):
    """The gangs have a rank on each: neither node has the CPUs for both."""
    root, shared = Path(__file__).parents[2], tmp_path / "shared"
    shared.mkdir()
    study = tmp_path / "tiny.yaml"
    study.write_text(TINY % {"corpus": root / "pipeline"})
    cluster = made(shared, python=sys.executable)[0]._cluster
    jobs, package = Slurm(cluster), Package.of(load_study(study), cluster)
    job, _ = submit(package, jobs)
    log = "".join(jobs.logs(job.submission, follow=True))
    assert "Compute-optimal allocation" in log
    assert latest(jobs, "tiny").state == "finished"
    ranks = {read_run(folder).attempts[-1].world for folder in (shared / "tiny/runs").iterdir()}
    assert ranks == {2}
    folder = shared / "tiny/jobs" / job.submission.id
    assert not (folder / "token").exists()
    wait_for(lambda: not list(slurm.glob("*.pid")) or not psutil.pid_exists(pid_of(slurm)))


def pid_of(slurm: Path) -> int:
    return int(next(slurm.glob("*.pid")).read_text())


def test_a_job_that_slurm_refuses_leaves_nothing_behind(slurm, tmp_path):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\necho 'no such partition' >&2\nexit 1\n")
    jobs, package = made(tmp_path / "shared")
    (tmp_path / "shared").mkdir()
    for _ in range(2):
        with pytest.raises(StudyError, match="sbatch: no such partition"):
            submit(package, jobs)
    assert jobs.all() == []


def test_a_job_that_ended_without_a_word_has_failed(slurm, tmp_path):
    jobs, package = made(tmp_path / "shared", python="false")
    (tmp_path / "shared").mkdir()
    submit(package, jobs)
    wait_for(lambda: jobs.all()[0].state == "failed")


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
