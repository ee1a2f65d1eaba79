"""The batch script: valid shell whatever the names, and a job's state from what it left behind."""

import os
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
# Runs the script's last argument at once, as Slurm would on the first node.
id=$((1000 + $(ls "$SLURM_STAND_IN" | grep -c pid)))
log=$(sed -n 's/^#SBATCH --output=//p' "${@: -1}")
SLURM_JOB_ID=$id SLURM_JOB_NODELIST="node[0-1]" setsid bash "${@: -1}" >>"$log" 2>&1 </dev/null &
echo $! >"$SLURM_STAND_IN/$id.pid"
echo "$id;cluster"
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
    "scontrol": "#!/bin/bash\nprintf 'node0\\nnode1\\n'\n",
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


def test_a_job_is_submitted_once_stopped_and_gone_on_with(slurm, tmp_path):
    """With a driver that waits for its end instead of the real one."""
    jobs, package = made(tmp_path / "shared", python="driver")
    (tmp_path / "shared").mkdir()
    driver = tmp_path / "bin" / "driver"
    driver.write_text(
        "#!/bin/bash\n"
        'case "$*" in\n'
        "*secrets*) echo sesame ;;\n"
        "*get_node_ip_address*) echo 127.0.0.1 ;;\n"
        "*health-check*) ;;\n"
        "*start*) exec sleep 60 ;;\n"
        "*) trap 'echo saved; exit 130' TERM; echo \"driver $*\"; sleep 60 & wait ;;\n"
        "esac\n"
    )
    driver.chmod(0o755)
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
    with pytest.raises(StudyError, match="shared is not here: this is no login node"):
        submit(package, jobs)
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
