"""Submitting, over a simulated scheduler: one job a submission, one at a time a study."""

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field, replace
from io import BytesIO

import pytest

from pipeline import package as package_module
from pipeline.cluster_file import LocalCluster, load_cluster
from pipeline.config import load_study
from pipeline.errors import BusyError, ConfigError, StudyError
from pipeline.package import Package
from pipeline.submit import Job, Submission, There, cancel, latest, resume, submit


@dataclass
class Simulated:
    jobs: dict[str, Job] = field(default_factory=dict)
    started: int = 0

    def all(self):
        return list(self.jobs.values())

    def start(self, package, submission):
        if submission.id in self.jobs:
            return False
        self.started += 1
        self.jobs[submission.id] = Job(submission, "running")
        return True

    def stop(self, submission):
        self.end(submission, "stopped")

    def end(self, submission, state):
        self.jobs[submission.id] = replace(self.jobs[submission.id], state=state)


@pytest.fixture
def cluster(tmp_path):
    return LocalCluster(
        kind="local", nodes=1, cpus_per_node=2, shared=str(tmp_path), mlflow="http://mlflow"
    )


@pytest.fixture(scope="module")
def code():
    """Read once: a file that is edited meanwhile would make another package."""
    return package_module._code()


@pytest.fixture
def package(cluster, code, monkeypatch):
    monkeypatch.setattr(package_module, "_code", lambda: code)
    return lambda *overrides: Package.of(load_study("quickstart", list(overrides)), cluster)


def test_twenty_submissions_are_one_job(package):
    jobs = Simulated()
    answers = [submit(package(), jobs) for _ in range(20)]
    assert [is_new for _, is_new in answers] == [True] + [False] * 19
    assert (jobs.started, len({job.submission.id for job, _ in answers})) == (1, 1)


def test_of_two_that_submit_at_once_one_makes_the_job(package):
    """The second has looked before the first has made it."""
    jobs = Simulated()
    submit(package(), jobs)
    jobs.all = lambda: []
    assert submit(package(), jobs)[1] is False
    assert jobs.started == 1


def test_what_ended_is_begun_again_by_resume_alone(package):
    jobs = Simulated()
    with pytest.raises(StudyError, match="no job on this cluster"):
        resume(package(), jobs)
    first, _ = submit(package(), jobs)
    assert resume(package(), jobs) == (first := replace(first, state="running"), False)
    assert cancel(jobs, "quickstart", 1).state == "stopped"
    assert submit(package(), jobs)[1] is False
    again, is_new = resume(package(), jobs)
    assert (again.submission.attempt, is_new) == (2, True)
    assert resume(package(), jobs)[1] is False
    assert jobs.started == 2


def test_a_study_that_runs_is_not_submitted_with_other_settings(package):
    jobs = Simulated()
    job, _ = submit(package(), jobs)
    for send in (submit, resume):
        with pytest.raises(BusyError, match=f"is running as {job.submission.id}"):
            send(package("train.sequence_length=64"), jobs)
    submit(package("name=another"), jobs)
    jobs.end(job.submission, "failed")
    assert submit(package("train.sequence_length=64"), jobs)[1] is True


def test_an_unknown_study_is_told_those_that_are_there(package):
    jobs = Simulated()
    submit(package(), jobs)
    with pytest.raises(StudyError, match="there: quickstart; did you mean 'quickstart'"):
        latest(jobs, "quickstrat")


def test_the_status_of_a_study_is_found_by_its_name_from_anywhere(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "plan.json").write_text("{}")
    assert There("mine", str(tmp_path)).folder == tmp_path / "mine"
    with pytest.raises(StudyError, match="seen there from here: mine; did you mean 'mine'"):
        _ = There("mime", str(tmp_path)).folder


def test_jobs_of_others_are_none_of_ours():
    assert Submission.of({}) is None
    assert Submission.of({"study": "s", "fingerprint": "f", "attempt": "two"}) is None
    submission = Submission("s", "f" * 64, 2)
    assert Submission.of(submission.labels()) == submission


def test_the_study_arrives_resolved_with_its_folder_on_the_shared_one(package, cluster, tmp_path):
    made = package("grid.budgets=[1e11]", "tokenizer.vocab_size=600", "train.checkpoint_steps=null")
    made.write(tmp_path / "job")
    (tmp_path / "elsewhere").mkdir()
    there = load_study(tmp_path / "job" / "study.yaml")
    assert there == made.study
    assert (there.grid.budgets, there.tokenizer.vocab_size) == ([1e11], 600)
    assert there.folder == tmp_path / "quickstart"
    assert there.mlflow == "http://mlflow"
    assert load_cluster(tmp_path / "job" / "cluster.yaml") == cluster


def test_relative_paths_of_a_study_become_whole(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    corpus = ["corpus={name: notes, source: {kind: text, path: notes}}"]
    made = Package.of(load_study("quickstart", corpus), cluster)
    assert str(tmp_path / "notes") in made.files["study.yaml"].decode()


def test_the_code_alone_is_shipped(package):
    names = set(package().files)
    assert {"launch/train.py", "configs/models/llama.yaml", "study.yaml"} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "analysis",
        "configs",
        "data",
        "launch",
        "models",
        "pipeline",
        "study.yaml",
        "cluster.yaml",
    }
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".bin"))]
    assert sum(map(len, package().files.values())) < 5e6


def test_the_fingerprint_is_of_every_byte_and_the_archive_repeats_to_the_bit(package):
    one, same, other = package(), package(), package("fit.seed=1")
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.zipped() == same.zipped()
    assert set(zipfile.ZipFile(BytesIO(one.zipped())).namelist()) == set(one.files)
    changed = replace(one, files={**one.files, "launch/train.py": b""})
    assert changed.fingerprint != one.fingerprint


def test_what_was_shipped_runs_where_nothing_else_is(package, tmp_path):
    """The command of the copy reads the copy's own code and study."""
    package("name=copied").write(tmp_path)
    script = "import pipeline.config as c; print(c.__file__, c.load_study('study.yaml').name)"
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == [str(tmp_path / "pipeline/config.py"), "copied"]


def test_a_password_is_not_shipped(package):
    with pytest.raises(ConfigError, match="mlflow: given a URI with a password"):
        package("mlflow='http://me:hunter2@mlflow'")


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".hidden", "A", "x" * 65, "a\nb", "a b"])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(ValueError, match="name: "):
        load_study("quickstart", [f"name={json.dumps(name)}"])
